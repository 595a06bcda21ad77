//! Machines of one small disk in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage::block::{BlockWrite, Length, Offset, RawDisk};
use afterimage::{
    Clock, Failover, Notice, PointSelector, Policy, ProtectedMachine, Protection, Replica, Role,
    Schedule, Store, fail_over, status,
};
use tempfile::TempDir;
use tokio::sync::broadcast::Receiver;
use tokio::time::{Instant, timeout_at};

pub(crate) struct Fixture(pub(crate) TempDir);

impl Fixture {
    /// A folder with a disk of 4 MiB in it.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fixture = Self(folder);
        fixture.disk("disk");
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn disk(&self, name: &str) -> PathBuf {
        let path = self.path(&format!("{name}.raw"));
        RawDisk::create(&path, Length::mib(4)).unwrap();
        path
    }

    pub(crate) fn policy() -> Policy {
        let second = Duration::from_secs(1);
        Policy {
            interval: second,
            retry: Schedule::fixed([second], second).unwrap(),
            ..Policy::default()
        }
    }

    /// Machine `name` with one disk, an interval of a tenth of a second, and a state folder of its
    /// own.
    pub(crate) fn protection(&self, name: &str, disk: &Path) -> Protection {
        self.protection_to("replica", name, disk)
    }

    /// The same, with the replica in folder `replica`.
    pub(crate) fn protection_to(&self, replica: &str, name: &str, disk: &Path) -> Protection {
        let policy = Self::policy();
        let replica = self.path(replica).display().to_string();
        Protection::new(name.parse().unwrap(), vec![disk.into()], replica)
            .state_folder(self.path(&format!("{name}.state")))
            .clock(Clock::accelerated(10))
            .policy(policy)
    }

    pub(crate) fn vm(&self) -> Protection {
        self.protection("vm", &self.path("disk.raw"))
    }

    pub(crate) async fn replica(&self) -> Replica {
        let url = self.path("replica").display().to_string();
        let store = Store::open_existing(&url).await.unwrap();
        store.replica("vm".parse().unwrap())
    }

    /// Protects the machine until it has a recovery point, and stops it.
    pub(crate) async fn protect_once(&self) {
        let (machine, mut notices) = self.vm().start().await.unwrap();
        write(&machine, 1);
        until(&mut notices, is_point).await;
        assert!(machine.stop().await.unwrap());
    }

    /// The replica must be what the disk is.
    pub(crate) async fn assert_replicated(&self) {
        let out = self.path("out");
        let replica = self.replica().await;
        fail_over(
            &replica,
            Failover::Planned,
            PointSelector::Latest,
            &out,
            |_, _| (),
        )
        .await
        .unwrap();
        let (disk, image) = (
            fs::read(self.path("disk.raw")),
            fs::read(out.join("disk.raw")),
        );
        assert!(disk.unwrap() == image.unwrap(), "disk and replica differ");
    }

    /// What the replica is, in a word.
    pub(crate) async fn role(&self) -> &'static str {
        let shown = status(&self.replica().await, Clock::timestamp()).await;
        match shown.unwrap().role {
            Role::Replica => "replica",
            Role::PreparedForFailover { .. } => "prepared",
            _ => "failed over",
        }
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.path("replica/machines/vm/manifest.json")
    }

    /// The file with this ending under `folder`.
    pub(crate) fn find(&self, folder: &str, ending: &str) -> PathBuf {
        let mut folders = vec![self.path(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.display().to_string().ends_with(ending) {
                    return path;
                }
            }
        }
        panic!("no file *{ending}");
    }
}

pub(crate) fn write(machine: &ProtectedMachine, value: u8) {
    let at = Offset::new(4096 * u64::from(value));
    machine.disks()[0].write_at(at, &[value; 4096]).unwrap();
}

/// As much, at the disk's beginning, that its log has an object of its own.
pub(crate) fn write_much(machine: &ProtectedMachine, value: u8) {
    let content = vec![value; 200_000];
    machine.disks()[0].write_at(Offset::ZERO, &content).unwrap();
}

pub(crate) fn is_point(notice: &Notice) -> bool {
    matches!(notice, Notice::RecoveryPoint { .. })
}

pub(crate) async fn until(
    notices: &mut Receiver<Notice>,
    awaited: impl Fn(&Notice) -> bool,
) -> Notice {
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut seen = Vec::new();
    loop {
        let Ok(notice) = timeout_at(deadline, notices.recv()).await else {
            panic!("not among the notices of a minute: {seen:#?}");
        };
        let notice = notice.unwrap();
        if awaited(&notice) {
            return notice;
        }
        seen.push(notice);
    }
}
