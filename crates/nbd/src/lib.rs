//! A small NBD server for block devices.
