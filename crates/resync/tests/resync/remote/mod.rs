//! Two ends and a wire, driven in an order that a seed chooses.

mod async_stream;
mod blank;
mod cache;
mod cursor;
mod driver;
mod hostile;
mod laws;
pub(crate) mod pair;
