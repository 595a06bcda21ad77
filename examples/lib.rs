//! What the example programs share: nothing but presentation.
