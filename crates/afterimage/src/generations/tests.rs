//! Crashes between the steps of a barrier and of a start.

use afterimage_block::Offset;
use afterimage_store::BaseProgress;

use super::*;

const SIZE: Length = Length::mib(8);
const EPOCH: Epoch = Epoch::new(1);
const FIRST: Sequence = Sequence::new(7);
const SECOND: Sequence = Sequence::new(8);

struct Host {
    folder: tempfile::TempDir,
    ids: [DiskId; 2],
}

impl Host {
    fn new() -> Self {
        let host = Self {
            folder: tempfile::tempdir().unwrap(),
            ids: [DiskId::from_bytes([1; 16]), DiskId::from_bytes([2; 16])],
        };
        for id in host.ids {
            let file = std::fs::File::create(host.image(id)).unwrap();
            file.set_len(SIZE.get()).unwrap();
        }
        host
    }

    fn image(&self, id: DiskId) -> PathBuf {
        self.folder.path().join(id.to_string())
    }

    /// The machine's disks after a start; whoever had them before is gone.
    fn open(&self) -> (StateFolder, Vec<OpenDisk>) {
        let folder = StateFolder::open(&self.folder.path().join("state")).unwrap();
        let saved = |id| SavedDisk {
            id,
            name: "disk".parse().unwrap(),
            path: self.image(id),
            size: SIZE,
            base: BaseProgress::default(),
            predecessor: ContentDigest::NONE,
            closed_as: None,
        };
        let open = |id| OpenDisk::open(saved(id), &folder).unwrap();
        let disks = self.ids.map(open).into();
        (folder, disks)
    }

    /// A life that writes in the first generation and in the second, and ends without a record of
    /// the barrier between them. The second may have begun on the first disk only.
    fn dies_after_a_barrier(&self, on_both: bool) {
        let (folder, disks) = self.open();
        let life = Generations::begin(disks, &folder, FIRST, Tracking::Logging, EPOCH).unwrap();
        write(&life, 0, 1);
        if on_both {
            let barrier = Barrier {
                ends: FIRST,
                next: SECOND,
                tracking: Tracking::Logging,
                snapshot: false,
                may_be_quiet: false,
                changes_disks: false,
                application_consistent: false,
                dropped: Vec::new(),
            };
            life.barrier(&barrier).unwrap();
            write(&life, 5, 2);
        } else {
            let disk = &life.disks[0];
            let next = header(disk.id, SIZE, SECOND, EPOCH);
            begin_generation(next, &disk.logs, Tracking::Logging).unwrap();
        }
    }
}

fn write(life: &Generations, mib: u64, byte: u8) {
    for disk in &life.disks {
        let at = Offset::new(mib << 20);
        disk.tracked.write_at(at, &[byte; 4096]).unwrap();
    }
}

fn extents(mibs: &[u64]) -> ExtentSet {
    let mut set = ExtentSet::new();
    for mib in mibs {
        let start = Offset::new(mib << 20);
        let region = Extent::new(start, Length::new(1)).unwrap();
        set.insert(region.aligned_out(IntentLog::REGION, SIZE));
    }
    set
}

fn assert_doubts(disks: &[OpenDisk], since: Sequence, mibs: &[u64]) {
    for disk in disks {
        match doubt_since(&disk.logs, &disk.saved, since).unwrap() {
            Scope::Extents(found) => assert_eq!(found, extents(mibs)),
            Scope::Everything => panic!("everything is in doubt"),
        }
    }
}

#[test]
fn a_start_that_dies_too_forgets_no_write_of_a_barrier_that_was_not_recorded() {
    let host = Host::new();
    host.dies_after_a_barrier(true);
    // A start that is killed before it has recorded what it recovered ...
    let (folder, mut disks) = host.open();
    recover(&mut disks, FIRST, Tracking::Logging, EPOCH).unwrap();
    keep_intents(&disks, SECOND).unwrap();
    drop((folder, disks));
    // ... leaves it to be recovered again.
    let (folder, disks) = host.open();
    assert_doubts(&disks, FIRST, &[0, 5]);
    // And one that is killed right after: the second generation is open then.
    assert_doubts(&disks, SECOND, &[5]);
    Generations::begin(disks, &folder, SECOND, Tracking::Logging, EPOCH).unwrap();
    drop(folder);
    let (_folder, disks) = host.open();
    assert_doubts(&disks, SECOND, &[]);
}

#[test]
fn a_barrier_that_was_cut_while_it_made_its_files_puts_little_in_doubt() {
    let host = Host::new();
    host.dies_after_a_barrier(false);
    let (folder, mut disks) = host.open();
    // A file that was cut while it was made.
    std::fs::write(
        disks[1].logs.join("00000000000000000008.intent.new"),
        [0; 64],
    )
    .unwrap();
    assert_doubts(&disks, FIRST, &[0]);
    let recovered = recover(&mut disks, FIRST, Tracking::Logging, EPOCH).unwrap();
    let sealed = |ended: &Ended| matches!(ended, Ended::Sealed(_));
    assert!(recovered.reached.disks.iter().all(sealed));
    keep_intents(&disks, SECOND).unwrap();
    assert_doubts(&disks, SECOND, &[]);
    Generations::begin(disks, &folder, SECOND, Tracking::Logging, EPOCH).unwrap();
}

#[test]
fn logs_that_a_crash_kept_from_being_deleted_are_deleted_at_the_next_start() {
    let host = Host::new();
    host.dies_after_a_barrier(true);
    let (_folder, disks) = host.open();
    delete_other_logs(&disks, &[FIRST]);
    for disk in &disks {
        assert_eq!(generations(&disk.logs, "ailog"), [FIRST]);
    }
    assert_doubts(&disks, FIRST, &[0, 5]);
}

#[test]
fn intents_that_were_lost_of_a_generation_that_was_not_recorded_put_all_in_doubt() {
    let host = Host::new();
    host.dies_after_a_barrier(true);
    let (folder, mut disks) = host.open();
    std::fs::remove_file(intent_path(&disks[0].logs, SECOND)).unwrap();
    let doubts_all = |disk: &OpenDisk, since| {
        let doubt = doubt_since(&disk.logs, &disk.saved, since).unwrap();
        assert_eq!(doubt, Scope::Everything);
    };
    doubts_all(&disks[0], FIRST);
    assert_doubts(&disks[1..], FIRST, &[0, 5]);
    // Also after a start that is killed before and after it has recorded that.
    let recovered = recover(&mut disks, FIRST, Tracking::Logging, EPOCH).unwrap();
    assert_eq!(recovered.reached.disks[0], Ended::Lost(Scope::Everything));
    keep_intents(&disks, SECOND).unwrap();
    doubts_all(&disks[0], FIRST);
    doubts_all(&disks[0], SECOND);
    Generations::begin(disks, &folder, SECOND, Tracking::Logging, EPOCH).unwrap();
    drop(folder);
    let (_folder, disks) = host.open();
    assert_doubts(&disks, SECOND, &[]);
}
