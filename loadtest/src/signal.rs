//! Waking one task of a thread from another one, and waking at an exact time.
//!
//! In: a notification, or a time in nanoseconds. Out: the task goes on.
//! monoio's own timer has a resolution of a millisecond, in which a server can batch what should
//! have come one by one; a kernel timer does not.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::task::{Poll, Waker};

use monoio::net::UnixStream;

/// A flag that one task waits for and any task of the same thread raises.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Signal {
    /// Raises the flag. Raising it twice before it is seen is raising it once.
    pub fn raise(&self) {
        self.raised.set(true);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// Waits for the flag and lowers it.
    pub async fn raised(&self) {
        poll_fn(|context| {
            if self.raised.replace(false) {
                return Poll::Ready(());
            }
            self.waiting.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Lets the other tasks of the thread have their turn.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A kernel timer on the clock of [`crate::clock`].
#[derive(Debug)]
pub struct Alarm {
    /// monoio waits for readiness only on sockets it knows; that of a timer is the same thing.
    timer: UnixStream,
}

impl Alarm {
    /// A timer that is not set.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed; the answer is a new descriptor or -1.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just created and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            timer: UnixStream::from_std(fd.into())?,
        })
    }

    /// Waits until `at_ns`; at once when that has passed.
    ///
    /// # Errors
    ///
    /// When the runtime is shutting down.
    pub async fn until(&self, at_ns: u64) -> io::Result<()> {
        if at_ns <= crate::clock::now_ns() {
            return Ok(());
        }
        let time = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: (at_ns / 1_000_000_000) as i64,
                tv_nsec: (at_ns % 1_000_000_000) as i64,
            },
        };
        let fd = self.timer.as_raw_fd();
        // SAFETY: `fd` is a timer owned by `self`, `time` is valid for the call, and no old value
        // is asked for. Setting a timer also lowers its readiness, so that it need not be read.
        let answer = unsafe {
            libc::timerfd_settime(
                fd,
                libc::TFD_TIMER_ABSTIME,
                &raw const time,
                std::ptr::null_mut(),
            )
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        loop {
            match self.timer.readable(false).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::clock::now_ns;

    #[test]
    fn a_task_is_woken_by_another_and_at_its_time() {
        let mut runtime = monoio::RuntimeBuilder::<monoio::FusionDriver>::new()
            .enable_timer()
            .build()
            .unwrap();
        runtime.block_on(async {
            let signal = Rc::new(Signal::default());
            let raiser = Rc::clone(&signal);
            let alarm = Alarm::new().unwrap();
            let at = now_ns() + 3_000_000;
            let task = monoio::spawn(async move {
                alarm.until(at).await.unwrap();
                raiser.raise();
            });
            signal.raised().await;
            assert!(now_ns() >= at);
            task.await;
        });
    }
}
