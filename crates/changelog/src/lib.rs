//! The change log of a virtual disk: an append-only record of every write, sealed, verifiable and searchable.
