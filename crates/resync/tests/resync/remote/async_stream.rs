//! Both ends over an asynchronous stream.

use std::future::Future;
use std::io::{self, Write};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use afterimage_block::{BlockRead, Length};
use afterimage_resync::remote::{Cursor, RemoteProgress, Terms};
use afterimage_resync::{BlockSize, Control, Driver, Error, Result, over_stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{Builder, Runtime};

use super::pair::{filled, terms};
use crate::disk::TestDisk;

/// Of one thread, and of several.
fn runtimes() -> [Runtime; 2] {
    [Builder::new_current_thread(), Builder::new_multi_thread()]
        .map(|mut builder| builder.enable_all().build().unwrap())
}

/// 26 MiB in blocks of 4 KiB of which a third differ.
fn disks() -> (Arc<TestDisk>, Arc<TestDisk>, Terms) {
    let byte = |at: usize| (at / 4096 * 7).to_le_bytes()[0] | 1;
    let source = filled(64 * 100, BlockSize::MIN, byte);
    let other = |at: usize| {
        if (at / 4096).is_multiple_of(3) {
            2
        } else {
            byte(at)
        }
    };
    let target = filled(64 * 100, BlockSize::MIN, other);
    let terms = terms(source.size(), BlockSize::MIN);
    (Arc::new(source), Arc::new(target), terms)
}

type Ended = Result<RemoteProgress>;

fn source(
    disk: &Arc<TestDisk>,
    terms: Terms,
    stream: DuplexStream,
) -> impl Future<Output = Ended> + use<> {
    let disk = disk.clone();
    over_stream(stream, move |from, to| {
        Driver::new(terms).run_source(&*disk, from, to)
    })
}

type Saved = Arc<Mutex<Option<Cursor>>>;

fn target(
    disk: &Arc<TestDisk>,
    terms: Terms,
    saved: &Saved,
    stream: DuplexStream,
) -> impl Future<Output = Ended> + use<> {
    let (disk, saved) = (disk.clone(), saved.clone());
    over_stream(stream, move |from, to| {
        let kept = saved.lock().unwrap().clone();
        let driver = Driver::new(terms).save(|cursor| {
            *saved.lock().unwrap() = Some(cursor.clone());
            Ok(())
        });
        let driver = match kept {
            Some(cursor) => driver.resume(cursor),
            None => driver,
        };
        driver.run_target(&*disk, from, to)
    })
}

/// Passes so many bytes on, and then closes both ends.
async fn pass(mut from: DuplexStream, mut to: DuplexStream, mut bytes: usize) {
    let (mut there, mut back) = (vec![0; 4096], vec![0; 4096]);
    while bytes > 0 {
        tokio::select! {
            read = from.read(&mut there) => {
                let count = read.unwrap_or(0).min(bytes);
                if count == 0 || to.write_all(&there[..count]).await.is_err() {
                    return;
                }
                bytes -= count;
            }
            read = to.read(&mut back) => {
                let count = read.unwrap_or(0);
                if count == 0 || from.write_all(&back[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[test]
fn disks_become_equal_over_a_stream_and_its_cuts() {
    for runtime in runtimes() {
        let (near, far, terms) = disks();
        let saved = Saved::default();
        for cut in [0, 70, 100_000, 3 << 20, usize::MAX] {
            let ((here, first), (second, there)) = (duplex(16 << 10), duplex(16 << 10));
            let (sent, received, ()) = runtime.block_on(async {
                tokio::join!(
                    source(&near, terms, here),
                    target(&far, terms, &saved, there),
                    pass(first, second, cut),
                )
            });
            if cut < usize::MAX {
                for error in [sent.unwrap_err(), received.unwrap_err()] {
                    assert!(error.is_recoverable(), "{error}");
                }
                continue;
            }
            let (sent, received) = (sent.unwrap(), received.unwrap());
            assert_eq!(sent.sent, received.sent);
            assert!(
                received.skipped > Length::ZERO,
                "what was saved is not hashed again"
            );
            assert!(far.bytes() == near.bytes() && far.is_flushed());
        }
    }
}

/// Tells that it is dropped.
struct Tell(Sender<()>);

impl Drop for Tell {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[test]
fn an_end_that_nobody_waits_for_gives_up() {
    for runtime in runtimes() {
        let (near, _, terms) = disks();
        // The other end is there and says nothing.
        let (here, _there) = duplex(16 << 10);
        let (told, ended) = channel();
        let (begun, has_begun) = channel();
        runtime.block_on(async {
            let run = over_stream(here, move |from, to| {
                let tell = Tell(told);
                begun.send(()).unwrap();
                let ended = Driver::new(terms).run_source(&*near, from, to);
                assert!(matches!(ended, Err(Error::Transport { .. })), "{ended:?}");
                drop(tell);
                ended
            });
            tokio::select! {
                _ = run => panic!("it cannot end"),
                () = async {
                    tokio::task::spawn_blocking(move || has_begun.recv()).await.unwrap().unwrap();
                } => {}
            }
        });
        ended.recv().unwrap();
        drop(runtime);
    }
}

#[test]
fn a_task_pauses_resumes_and_cancels_an_end() {
    for (runtime, is_cancelled) in runtimes().into_iter().zip([false, true]) {
        let (near, far, terms) = disks();
        let control = Control::default();
        control.pause();
        let (here, there) = duplex(16 << 10);
        let (disk, held) = (near.clone(), control.clone());
        let sent = over_stream(here, move |from, to| {
            let driver = Driver::new(terms).controlled_by(&held);
            driver.run_source(&*disk, from, to)
        });
        let (sent, received, before) = runtime.block_on(async {
            let steer = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let before = far.bytes();
                if is_cancelled {
                    control.cancel();
                } else {
                    control.resume();
                }
                before
            };
            tokio::join!(sent, target(&far, terms, &Saved::default(), there), steer)
        });
        assert!(before != near.bytes());
        if is_cancelled {
            assert!(matches!(sent, Err(Error::Stopped)), "{sent:?}");
            assert!(matches!(received, Err(Error::Peer { .. })), "{received:?}");
        } else {
            assert_eq!(sent.unwrap().sent, received.unwrap().sent);
            assert!(far.bytes() == near.bytes());
        }
    }
}

#[test]
#[should_panic(expected = "as it should")]
fn a_panic_comes_through() {
    let [runtime, _] = runtimes();
    let (here, _there) = duplex(64);
    let ended: Result<()> = runtime.block_on(over_stream(here, |_, _| panic!("as it should")));
    ended.unwrap();
}

#[test]
fn the_last_word_of_an_end_that_gives_up_is_written() {
    for runtime in runtimes() {
        let (near, far, terms) = disks();
        let (here, there) = duplex(16 << 10);
        let control = Control::default();
        control.cancel();
        let sent = over_stream(here, move |from, to| {
            let driver = Driver::new(terms).controlled_by(&control);
            driver.run_source(&*near, from, Slow(to))
        });
        let (sent, received) = runtime
            .block_on(async { tokio::join!(sent, target(&far, terms, &Saved::default(), there)) });
        assert!(matches!(sent, Err(Error::Stopped)), "{sent:?}");
        assert!(matches!(received, Err(Error::Peer { .. })), "{received:?}");
    }
}

/// Is written to when the end has long given up.
struct Slow<W>(W);

impl<W: Write> Write for Slow<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        std::thread::sleep(Duration::from_millis(300));
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
