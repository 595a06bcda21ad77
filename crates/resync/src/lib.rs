//! Fixed-block checksum resynchronization of two disks.
