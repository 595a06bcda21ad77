//! Fixtures shared by the benchmarks: a folder in memory, incompressible bytes, cases in turn.

mod bare;
mod paired;

use tempfile::TempDir;

pub use bare::append_bare;
pub use paired::{Paired, Rate, filter};

/// The variable that names the folder to work in instead of `/dev/shm`, to measure a real medium.
pub const FOLDER_VARIABLE: &str = "AFTERIMAGE_BENCH_FOLDER";

/// An empty folder: where [`FOLDER_VARIABLE`] says, else on tmpfs, else in the temporary folder.
///
/// # Panics
/// If none can be made.
pub fn folder() -> TempDir {
    // A name that tells whose it is, for whoever tidies up.
    let mut named = tempfile::Builder::new();
    named.prefix("afterimage-bench-");
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return named
            .tempdir_in(folder)
            .expect("a folder that can be written to");
    }
    named
        .tempdir_in("/dev/shm")
        .or_else(|_| named.tempdir())
        .expect("a temporary folder")
}

/// An empty folder on a medium that a force has to reach: where [`FOLDER_VARIABLE`] says, else in the
/// temporary folder.
///
/// # Panics
/// If none can be made.
pub fn folder_on_disk() -> TempDir {
    let place = std::env::var_os(FOLDER_VARIABLE).map_or_else(std::env::temp_dir, Into::into);
    let mut named = tempfile::Builder::new();
    let folder = named.prefix("afterimage-bench-").tempdir_in(place);
    folder.expect("a folder that can be written to")
}

/// Bytes that look random and are the same in every run (xorshift).
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Default for Noise {
    fn default() -> Self {
        Self(0x2545_F491_4F6C_DD1D)
    }
}

impl Noise {
    /// Noise that differs from that of another `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self(Self::default().0 ^ (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`, which must not be zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit
    }

    /// `length` bytes, cut to whole words.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.word().to_le_bytes());
        words.take(length / 8).flatten().collect()
    }
}
