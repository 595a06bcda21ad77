//! Disks of a machine that are not replicated: whoever fails over is told that they are missing.

use std::fs;
use std::path::PathBuf;

use afterimage::block::Length;
use afterimage::{
    Clock, Error, ExcludedDisk, Failover, PointSelector, Protection, Replica, TestResult, clean_up,
    commit, fail_over, open_point, serve_failover, status,
};

use crate::fixture::{Fixture, is_point, until, write};

fn swap() -> ExcludedDisk {
    ExcludedDisk {
        name: "swap".parse().unwrap(),
        size: Length::mib(4),
    }
}

async fn excluded(replica: &Replica) -> Vec<ExcludedDisk> {
    status(replica, Clock::timestamp()).await.unwrap().excluded
}

async fn protect(protection: Protection) {
    let (machine, mut notices) = protection.start().await.unwrap();
    write(&machine, 1);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_failover_says_what_is_missing() {
    let fixture = Fixture::new();
    let disk = fixture.disk("swap");
    protect(fixture.vm().exclude(vec![disk])).await;
    let (replica, latest) = (fixture.replica().await, PointSelector::Latest);
    assert_eq!(excluded(&replica).await, [swap()]);
    assert_eq!(replica.existing().await.unwrap().disks.len(), 1);

    let out = fixture.path("test");
    let tested = fail_over(&replica, Failover::Test, latest, &out, |_, _| ()).await;
    assert_eq!(tested.unwrap().missing, [swap()]);
    assert!(!out.join("swap.raw").exists());
    let succeeded = TestResult::Succeeded;
    clean_up(&replica, Some(&out), succeeded, "").await.unwrap();

    let address = format!("unix:{}", fixture.path("served.sock").display());
    let address = address.parse().unwrap();
    let opened = open_point(&replica, latest, &address, fixture.0.path()).await;
    let opened = opened.unwrap();
    assert_eq!(opened.missing(), [swap()]);
    opened.close().await.unwrap();
    clean_up(&replica, None, succeeded, "").await.unwrap();

    let (how, out) = (Failover::Planned, fixture.path("served"));
    let served = serve_failover(&replica, how, latest, &address, &out).await;
    let served = served.unwrap();
    assert_eq!(served.missing(), [swap()]);
    served.close().await.unwrap();
    commit(&replica, None).await.unwrap();
    assert_eq!(excluded(&replica).await, [swap()]);
}

/// The newest word of the primary counts.
#[tokio::test]
async fn a_further_replica_knows_it_and_it_can_be_taken_back() {
    let fixture = Fixture::new();
    let disk = fixture.disk("swap");
    protect(fixture.vm().exclude(vec![disk])).await;
    fixture.extend().await;
    assert_eq!(excluded(&fixture.far().await).await, [swap()]);
    protect(fixture.vm()).await;
    assert_eq!(excluded(&fixture.replica().await).await, []);
    fixture.extend().await;
    assert_eq!(excluded(&fixture.far().await).await, []);
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn what_cannot_be_excluded_is_refused_before_anything_is_written() {
    let fixture = Fixture::new();
    let refused = async |disks: &[PathBuf]| {
        let started = fixture.vm().exclude(disks.to_vec()).start().await;
        started.map(drop).unwrap_err()
    };
    let says = |error: Error, words: &str| {
        assert!(matches!(error, Error::Disks(_)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    let disk = fixture.path("disk.raw");
    says(refused(&[disk]).await, "is protected, and excluded as well");
    fs::create_dir(fixture.path("other")).unwrap();
    let other = fixture.disk("other/disk");
    says(refused(&[other]).await, "has the name of another disk");
    let swap = fixture.disk("swap");
    says(refused(&[swap.clone(), swap]).await, "is named twice");
    let missing = refused(&[fixture.path("nothing.raw")]).await;
    assert!(matches!(missing, Error::File { .. }), "{missing}");
    fs::write(fixture.path("odd.raw"), [0; 100]).unwrap();
    let odd = refused(&[fixture.path("odd.raw")]).await;
    assert!(matches!(odd, Error::Disk(_)), "{odd}");
    assert!(!fixture.path("replica").exists());
}
