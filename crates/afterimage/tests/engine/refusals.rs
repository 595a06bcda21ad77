//! What bad input gets: an error that says what to do, or a resynchronization; never a lost write.

use std::fs;
use std::path::Path;

use afterimage::block::{Access, BlockWrite, Offset, RawDisk};
use afterimage::{Error, Failover, Notice, PointSelector, Protection, ResyncReason, fail_over};

use crate::fixture::{Fixture, is_point, until, write, write_much};

/// Starts the machine; it must become Critical and say why, while the guest's writes go on.
async fn problem(protection: Protection) -> String {
    let (machine, mut notices) = protection.start().await.unwrap();
    let gave_up = until(&mut notices, |n| matches!(n, Notice::GaveUp { .. })).await;
    write(&machine, 9);
    assert!(!machine.stop().await.unwrap());
    match gave_up {
        Notice::GaveUp { error, .. } => error,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn refused(protection: Protection) -> Error {
    match protection.start().await {
        Ok(_) => panic!("not refused"),
        Err(error) => error,
    }
}

pub(crate) fn assert_says(error: &impl ToString, words: &str) {
    let error = error.to_string();
    assert!(error.contains(words), "`{error}` does not say `{words}`");
}

#[tokio::test]
async fn a_disk_that_is_missing_or_odd_is_refused() {
    let fixture = Fixture::new();
    let error = refused(fixture.protection("vm", &fixture.path("none.raw"))).await;
    assert_says(&error, "none.raw");
    let odd = fixture.path("odd.raw");
    fs::write(&odd, [0; 1000]).unwrap();
    let error = refused(fixture.protection("odd", &odd)).await;
    assert_says(
        &error,
        "1000 bytes, which is not a whole number of 512-byte sectors",
    );
    let error = refused(fixture.protection("folder", fixture.0.path())).await;
    assert_says(&error, "neither a regular file nor a block device");
}

#[tokio::test]
async fn a_url_that_no_store_has_is_refused() {
    let fixture = Fixture::new();
    let disk = fixture.path("disk.raw");
    let protection = Protection::new("vm".parse().unwrap(), vec![disk], "ftp://host/replicas");
    assert_says(
        &refused(protection).await,
        "ftp://host/replicas` is not a store",
    );
}

#[tokio::test]
async fn a_disk_that_shrank_is_refused() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let disk = fs::File::options()
        .write(true)
        .open(fixture.path("disk.raw"))
        .unwrap();
    disk.set_len(2 << 20).unwrap();
    let error = refused(fixture.vm()).await;
    assert!(matches!(error, Error::Shrunk { .. }), "{error}");
    assert_says(
        &error,
        "disk.raw` is protected with 4194304 bytes and cannot shrink to 2097152",
    );
    disk.set_len(4 << 20).unwrap();
    fixture.protect_once().await;
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn a_disk_and_a_state_folder_have_one_protector() {
    let fixture = Fixture::new();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    until(&mut notices, is_point).await;
    let error = refused(fixture.vm()).await;
    assert!(matches!(error, Error::StateInUse(_)), "{error}");
    let error = refused(fixture.protection("other", &fixture.path("disk.raw"))).await;
    assert_says(&error, "in use");
    write(&machine, 2);
    assert!(machine.stop().await.unwrap());
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn the_state_folder_of_another_machine_is_refused() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let other = fixture.protection("other", &fixture.path("disk.raw"));
    let error = refused(other.state_folder(fixture.path("vm.state"))).await;
    assert_says(&error, "belongs to machine `vm`");
}

#[tokio::test]
async fn a_replica_name_that_is_taken_is_a_problem() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let disk = fixture.disk("another");
    let taken = fixture.protection("vm", &disk);
    let error = problem(taken.state_folder(fixture.path("fresh.state"))).await;
    assert_says(&error, "another");
    fixture.protect_once().await;
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn a_damaged_or_newer_manifest_is_a_problem_until_it_is_mended() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let good = fs::read(fixture.manifest()).unwrap();
    for bad in [&good[..good.len() / 2], b"{}".as_slice(), b"".as_slice()] {
        fs::write(fixture.manifest(), bad).unwrap();
        assert_says(&refused(fixture.vm()).await, "manifest.json");
    }
    let text = String::from_utf8(good.clone()).unwrap();
    let newer = text.replacen("\"format\":7", "\"format\":9", 1);
    assert_ne!(text, newer);
    fs::write(fixture.manifest(), newer).unwrap();
    assert_says(&refused(fixture.vm()).await, "format 9");
    fs::write(fixture.manifest(), good).unwrap();
    fixture.protect_once().await;
    fixture.assert_replicated().await;
}

/// Stops a machine while its replica is away, so that a sealed log waits, and damages that log.
async fn with_a_damaged_log(damage: impl Fn(&Path)) {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let (here, away) = (fixture.path("replica"), fixture.path("away"));
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    fs::rename(&here, &away).unwrap();
    write(&machine, 3);
    until(&mut notices, |n| matches!(n, Notice::Retry { .. })).await;
    assert!(!machine.stop().await.unwrap());
    damage(&fixture.find("vm.state/logs", ".ailog"));
    // A put that was under way may have made the folder anew.
    let _ = fs::remove_dir_all(&here);
    fs::rename(&away, &here).unwrap();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    let required = until(&mut notices, |n| matches!(n, Notice::ResyncRequired { .. })).await;
    let lost = Notice::ResyncRequired {
        reason: ResyncReason::LogLost,
    };
    assert_eq!(required, lost);
    until(&mut notices, |n| matches!(n, Notice::Resync { .. })).await;
    assert!(machine.stop().await.unwrap());
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn a_truncated_log_is_made_up_for_by_a_resynchronization() {
    with_a_damaged_log(|log| {
        let length = fs::metadata(log).unwrap().len();
        let file = fs::File::options().write(true).open(log).unwrap();
        file.set_len(length / 2).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_flipped_bit_in_a_log_is_made_up_for_by_a_resynchronization() {
    with_a_damaged_log(|log| {
        let mut content = fs::read(log).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(log, content).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_missing_log_is_made_up_for_by_a_resynchronization() {
    with_a_damaged_log(|log| fs::remove_file(log).unwrap()).await;
}

#[tokio::test]
async fn a_failover_to_a_damaged_point_makes_no_image() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    write_much(&machine, 4);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    let log = fixture.find("replica/machines/vm", ".ailog");
    let mut content = fs::read(&log).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&log, content).unwrap();
    let out = fixture.path("out");
    let replica = fixture.replica().await;
    let failed = fail_over(
        &replica,
        Failover::Test,
        PointSelector::Latest,
        &out,
        |_, _| (),
    )
    .await;
    assert_says(&failed.unwrap_err(), "damaged");
    assert!(!out.join("disk.raw").exists());
}

#[tokio::test]
async fn a_failover_overwrites_nothing() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let replica = fixture.replica().await;
    let onto_itself = fixture.0.path();
    let failed = fail_over(
        &replica,
        Failover::Test,
        PointSelector::Latest,
        onto_itself,
        |_, _| (),
    );
    let error = failed.await.unwrap_err();
    assert!(matches!(error, Error::Exists(_)), "{error}");
}

#[tokio::test]
async fn a_disk_changed_while_nothing_tracked_it_is_compared() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    RawDisk::open(fixture.path("disk.raw"), Access::ReadWrite)
        .unwrap()
        .write_at(Offset::new(1 << 20), &[7; 512])
        .unwrap();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    until(&mut notices, |n| matches!(n, Notice::Resync { .. })).await;
    assert!(machine.stop().await.unwrap());
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn an_old_copy_of_the_state_is_shut_out() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let state = fixture.path("vm.state/state.json");
    let old = fs::read(&state).unwrap();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    write(&machine, 2);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    let new = fs::read(&state).unwrap();
    fs::write(&state, old).unwrap();
    assert_says(&refused(fixture.vm()).await, "another one published");
    fs::write(&state, new).unwrap();
    fixture.protect_once().await;
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn a_stopped_machine_is_served_only_once_its_replica_knows() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let (there, away) = (fixture.path("replica"), fixture.path("away"));
    fs::rename(&there, &away).unwrap();
    let error = refused(fixture.vm()).await;
    assert!(matches!(error, Error::StillPrepared { .. }), "{error}");
    assert_says(&error, "fail over to the replica");
    fs::rename(&away, &there).unwrap();
    assert_eq!(fixture.role().await, "prepared", "nothing was written");

    // From the first moment at which it can be written to nothing is prepared, whatever is heard of it then.
    let (machine, _) = fixture.vm().start().await.unwrap();
    assert_eq!(fixture.role().await, "replica");
    write(&machine, 2);
    drop(machine);
    let planned = fixture.fail_over_to("out").await.unwrap_err();
    assert_says(&planned, "has not been stopped");

    loop {
        match fixture.vm().start().await {
            Err(Error::StateInUse(_) | Error::Disk(_)) => tokio::task::yield_now().await,
            started => break assert!(started.unwrap().0.stop().await.unwrap()),
        }
    }
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn a_preparation_whose_answer_was_lost_is_taken_back_as_well() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    // As if the process had died before it heard that the replica is prepared.
    let path = fixture.path("vm.state/state.json");
    let state = fs::read_to_string(&path).unwrap();
    let unheard = state.replace(r#""phase":"Prepared""#, r#""phase":"Preparing""#);
    assert_ne!(state, unheard);
    fs::write(&path, unheard).unwrap();
    fs::rename(fixture.path("replica"), fixture.path("away")).unwrap();
    let error = refused(fixture.vm()).await;
    assert!(matches!(error, Error::StillPrepared { .. }), "{error}");
}
