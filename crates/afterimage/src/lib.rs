//! Continuous replication of virtual disks: the engine.
