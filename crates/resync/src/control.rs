//! Pausing and cancelling from outside.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Pauses, resumes and cancels every resync that was given a clone, from any thread or task: none of its
/// calls waits.
///
/// ```
/// use std::ops::ControlFlow;
/// use afterimage_block::{Length, MemoryDisk};
/// use afterimage_resync::{BlockSize, Control, LocalResync, Session};
///
/// let (source, target) = (MemoryDisk::new(Length::gib(1)), MemoryDisk::new(Length::gib(1)));
/// let mut session = Session::whole(Length::gib(1), BlockSize::default());
/// let control = Control::default();
/// control.pause();
/// let resync = LocalResync::new(&source, &target)?.controlled_by(&control);
/// std::thread::scope(|scope| {
///     let running = scope.spawn(|| resync.run(&mut session, |_| ControlFlow::Continue(())));
///     control.resume(); // or cancel
///     running.join().unwrap()
/// })?;
/// assert!(session.is_complete());
/// # Ok::<(), afterimage_resync::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Control(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_paused: bool,
    is_cancelled: bool,
    /// What is called when it is cancelled, of each that goes on.
    members: BTreeMap<u64, Box<dyn Fn() + Send>>,
    next: u64,
}

impl Control {
    /// Has no block read, hashed or written any more that is not yet begun, until it is resumed. What was
    /// begun is brought to its end, and what was read is still sent.
    pub fn pause(&self) {
        self.state().is_paused = true;
    }

    /// Goes on after a pause.
    pub fn resume(&self) {
        self.state().is_paused = false;
        self.0.changed.notify_all();
    }

    /// Ends it for good, paused or not, as if whoever observes its progress had.
    pub fn cancel(&self) {
        let mut state = self.state();
        state.is_cancelled = true;
        state.members.values().for_each(|tell| tell());
        drop(state);
        self.0.changed.notify_all();
    }

    /// Whether it is paused, and not cancelled.
    pub fn is_paused(&self) -> bool {
        let state = self.state();
        state.is_paused && !state.is_cancelled
    }

    /// Whether it is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.state().is_cancelled
    }

    /// Waits while it is paused and not cancelled.
    pub(crate) fn wait(&self) {
        let is_held = |state: &mut State| state.is_paused && !state.is_cancelled;
        let _state = self.0.changed.wait_while(self.state(), is_held);
    }

    /// Has `tell`, which must not wait, called when it is cancelled, until the member has left.
    pub(crate) fn join(&self, tell: impl Fn() + Send + 'static) -> Member {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.members.insert(number, Box::new(tell));
        drop(state);
        Member {
            control: self.clone(),
            number,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("Control")
            .field("is_paused", &state.is_paused)
            .field("is_cancelled", &state.is_cancelled)
            .finish_non_exhaustive()
    }
}

/// One of those that are controlled, whose threads wait and must not once it is over.
pub(crate) struct Member {
    control: Control,
    number: u64,
}

impl Member {
    /// Waits while it is paused; breaks if it is cancelled or has left.
    pub(crate) fn wait(&self) -> ControlFlow<()> {
        let state = self.control.state();
        let has_left = |state: &State| !state.members.contains_key(&self.number);
        let is_held =
            |state: &mut State| state.is_paused && !state.is_cancelled && !has_left(state);
        let state = self.control.0.changed.wait_while(state, is_held);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        if state.is_cancelled || has_left(&state) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Leaves when what this gives is dropped.
    pub(crate) fn leave_at_last(&self) -> impl Drop {
        Leave(self)
    }
}

struct Leave<'m>(&'m Member);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let Member { control, number } = self.0;
        control.state().members.remove(number);
        control.0.changed.notify_all();
    }
}
