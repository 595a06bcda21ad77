//! A failover that is served at once.

use std::fs;
use std::path::PathBuf;

use afterimage::block::{BlockRead, BlockWrite, Length, Offset};
use afterimage::{
    Clock, Error, Failover, PointSelector, State, commit, fail_over, serve_failover, status,
};

use crate::fixture::{Fixture, is_point, until, write};

/// Writes through NBD what `value` says, forces it, and reads the whole disk.
async fn write_and_read(uri: &str, value: u8) -> Vec<u8> {
    let uri = uri.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let client = afterimage_nbd::Client::open(&uri).unwrap();
        let at = Offset::new(u64::from(value) << 16);
        client.write_at(at, &[value; 4096]).unwrap();
        client.flush().unwrap();
        let mut content = vec![0; 4 << 20];
        client.read_at(Offset::ZERO, &mut content).unwrap();
        content
    });
    work.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_served_at_once_and_becomes_images_also_after_its_commit() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let replica = fixture.replica().await;
    let address = format!("unix:{}", fixture.path("served.sock").display());
    let address = address.parse().unwrap();
    let (out, foreign) = (fixture.path("served"), fixture.path("foreign"));
    let serve = |out: PathBuf| {
        let (replica, address) = (replica.clone(), &address);
        async move {
            let (how, latest) = (Failover::Planned, PointSelector::Latest);
            serve_failover(&replica, how, latest, address, &out).await
        }
    };
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("disk.raw"), [1; 512]).unwrap();
    let error = serve(foreign).await.unwrap_err();
    assert!(matches!(error, Error::Exists(_)), "{error}");
    let shown = status(&replica, Clock::timestamp()).await.unwrap();
    assert_eq!(
        shown.state,
        State::PreparedForFailover,
        "it is not failed over"
    );

    let mut expected = fs::read(fixture.path("disk.raw")).unwrap();
    for value in [5, 6] {
        let mut served = serve(out.clone()).await.unwrap();
        expected[usize::from(value) << 16..][..4096].fill(value);
        let found = write_and_read(&served.exports()[0], value).await;
        assert!(found == expected, "the point, and what was written to it");
        if value == 6 {
            served.hydrated().await.unwrap();
            served.hydrated().await.unwrap();
            assert_eq!(served.progress(), (Length::mib(4), Length::mib(4)));
            assert!(fs::read(&served.images()[0]).unwrap() == expected);
        }
        served.close().await.unwrap();
        let (planned, latest) = (Failover::Planned, PointSelector::Latest);
        let copied = fail_over(&replica, planned, latest, &out, |_, _| ()).await;
        assert!(
            matches!(copied, Err(Error::Exists(_))),
            "that would undo what was written"
        );
        if value == 5 {
            commit(&replica, None).await.unwrap();
        }
    }
    assert!(fs::read(out.join("disk.raw")).unwrap() == expected);

    let (machine, mut notices) = fixture
        .failed_over("served")
        .reverse()
        .start()
        .await
        .unwrap();
    write(&machine, 1);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    fixture.assert_reversed("served/disk.raw").await;
}
