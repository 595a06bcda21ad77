//! Resyncs that are paused, resumed and cancelled by another thread.

use std::io::pipe;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use afterimage_block::{BlockRead, Length};
use afterimage_resync::{BlockSize, Control, Driver, Error, LocalResync, Session};

use crate::disk::TestDisk;
use crate::remote::pair::{filled, terms};

/// Long enough for one that is not held to move.
const A_WHILE: Duration = Duration::from_millis(100);

/// 26 MiB of which all differ.
fn disks() -> (TestDisk, TestDisk) {
    let disk = |byte| filled(64 * 100, BlockSize::MIN, move |_| byte);
    (disk(1), disk(2))
}

fn threads(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

#[test]
fn a_local_resync_that_is_paused_moves_when_it_is_resumed() {
    for count in [1, 3] {
        let (source, target) = disks();
        let control = Control::default();
        let resync = LocalResync::new(&source, &target).unwrap();
        let resync = resync.threads(threads(count)).controlled_by(&control);
        let mut session = Session::whole(source.size(), BlockSize::MIN);
        let (told, steps) = channel();
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                resync.run(&mut session, |progress| {
                    if progress.summary.sent == Length::mib(1) {
                        control.pause();
                    }
                    told.send(progress).unwrap();
                    ControlFlow::Continue(())
                })
            });
            while !control.is_paused() {
                steps.recv().unwrap();
            }
            // What was begun before comes to its end.
            while steps.recv_timeout(A_WHILE).is_ok() {}
            let writes = target.writes().len();
            assert_eq!(steps.recv_timeout(A_WHILE), Err(RecvTimeoutError::Timeout));
            assert!(target.writes().len() == writes && source.bytes() != target.bytes());
            control.resume();
            running.join().unwrap().unwrap();
        });
        assert!(session.is_complete() && source.bytes() == target.bytes());
    }
}

#[test]
fn a_local_resync_that_is_cancelled_ends_and_can_be_gone_on_with() {
    for paused in [false, true] {
        let (source, target) = disks();
        let control = Control::default();
        let resync = LocalResync::new(&source, &target).unwrap();
        let resync = resync.threads(threads(2)).controlled_by(&control);
        let mut session = Session::whole(source.size(), BlockSize::MIN);
        let run = resync.run(&mut session, |_| {
            if paused {
                control.pause();
            }
            control.cancel();
            ControlFlow::Continue(())
        });
        run.unwrap();
        assert!(control.is_cancelled() && !control.is_paused());
        assert!(!session.is_complete() && target.is_flushed());
        let resync = LocalResync::new(&source, &target).unwrap();
        resync
            .run(&mut session, |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(session.is_complete() && source.bytes() == target.bytes());
    }
}

#[test]
fn an_end_that_is_paused_holds_the_other_one_back() {
    let (source, target) = disks();
    let terms = terms(source.size(), BlockSize::MIN);
    let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
    let control = Control::default();
    let (told, steps) = channel();
    thread::scope(|scope| {
        let far = scope.spawn(|| Driver::new(terms).run_target(&target, far_in, far_out));
        let near = scope.spawn(|| {
            let near = Driver::new(terms).controlled_by(&control);
            let near = near.observe(|progress| {
                if progress.sent >= Length::mib(1) && !control.is_paused() {
                    control.pause();
                }
                told.send(progress).unwrap();
                ControlFlow::Continue(())
            });
            near.run_source(&source, near_in, near_out)
        });
        while !control.is_paused() {
            steps.recv().unwrap();
        }
        while steps.recv_timeout(A_WHILE).is_ok() {}
        assert_eq!(steps.recv_timeout(A_WHILE), Err(RecvTimeoutError::Timeout));
        assert!(source.bytes() != target.bytes() && !far.is_finished());
        control.cancel();
        assert!(matches!(near.join().unwrap(), Err(Error::Stopped)));
        assert!(matches!(far.join().unwrap(), Err(Error::Peer { .. })));
    });
}

#[test]
fn an_end_is_paused_and_resumed_until_the_disks_are_equal() {
    let (source, target) = disks();
    let terms = terms(source.size(), BlockSize::MIN);
    let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
    let control = Control::default();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                control.pause();
                thread::sleep(Duration::from_millis(1));
                control.resume();
                thread::sleep(Duration::from_millis(1));
            }
        });
        let far = scope.spawn(|| {
            Driver::new(terms)
                .controlled_by(&control)
                .run_target(&target, far_in, far_out)
        });
        let near = Driver::new(terms).controlled_by(&control);
        let near = near.run_source(&source, near_in, near_out);
        is_over.store(true, Ordering::Relaxed);
        near.unwrap();
        far.join().unwrap().unwrap();
    });
    assert!(source.bytes() == target.bytes());
}

#[test]
fn an_end_is_cancelled_while_it_waits_for_one_that_says_nothing() {
    for paused in [false, true] {
        let (source, _) = disks();
        let terms = terms(source.size(), BlockSize::MIN);
        let ((_far_in, near_out), (near_in, _far_out)) = (pipe().unwrap(), pipe().unwrap());
        let control = Control::default();
        if paused {
            control.pause();
        }
        let ended = thread::scope(|scope| {
            let near = scope.spawn(|| {
                Driver::new(terms)
                    .controlled_by(&control)
                    .run_source(&source, near_in, near_out)
            });
            thread::sleep(A_WHILE);
            assert!(!near.is_finished());
            control.cancel();
            near.join().unwrap()
        });
        assert!(matches!(ended, Err(Error::Stopped)), "{ended:?}");
    }
}

#[test]
fn an_end_that_is_paused_ends_when_the_other_one_is_gone() {
    let (source, _) = disks();
    let terms = terms(source.size(), BlockSize::MIN);
    let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
    drop((far_in, far_out));
    let control = Control::default();
    control.pause();
    let near = Driver::new(terms).controlled_by(&control);
    assert!(near.run_source(&source, near_in, near_out).is_err());
}
