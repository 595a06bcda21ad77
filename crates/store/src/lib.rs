//! Replica storage on object stores: base, sealed logs, recovery points and a fenced manifest.
