//! The replication state machine of a protected machine: sans-IO, serializable, testable in virtual time.
