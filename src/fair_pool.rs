//! Threads for work that blocks or computes, shared fairly between users.
//!
//! Users take turns: each waiting user gets one job done before any gets a second, and no user
//! occupies more than half of the threads, so one user's slow jobs never hold up all others. The
//! user comes from the task that submits a job ([`run_as`]); jobs of the server itself take turns
//! like those of a user.

use crate::domain::UserId;
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

tokio::task_local! {
    /// The user for whom the current task works.
    static TASK_OWNER: JobOwner;
}

/// A user, or `None` for the server itself.
type JobOwner = Option<UserId>;

/// Runs `work` for a user: jobs it submits take turns with those of other users.
pub async fn run_as<F: Future>(user: UserId, work: F) -> F::Output {
    TASK_OWNER.scope(Some(user), work).await
}

/// Runs `work`, which blocks, for a user.
pub fn run_blocking_as<T>(user: UserId, work: impl FnOnce() -> T) -> T {
    TASK_OWNER.sync_scope(Some(user), work)
}

/// `work` for the same user as the current task, for a task to be spawned.
pub fn inherit_owner<F: Future>(work: F) -> impl Future<Output = F::Output> {
    TASK_OWNER.scope(current_owner(), work)
}

/// The user of the current task; `None` outside of [`run_as`].
pub fn current_owner() -> Option<UserId> {
    TASK_OWNER.try_with(Clone::clone).ok().flatten()
}

/// The order in which jobs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobPriority {
    /// Before all others, and on a thread of its own if the others are occupied: look-ups on which
    /// every request depends.
    Urgent,
    /// Before all but urgent ones, on the threads that users share: checks of how long users wait.
    Probe,
    /// In turn with other users.
    Shared,
}

/// Why a job has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    #[error("the thread pool is closed")]
    Closed,
    #[error("the job panicked")]
    Panicked,
}

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A fixed number of named threads, each with a state that its jobs use.
pub struct FairPool<S> {
    shared: Arc<PoolShared<S>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct PoolShared<S> {
    queue: Mutex<JobQueue<S>>,
    job_ready: Condvar,
    urgent_ready: Condvar,
}

impl<S: Send + 'static> FairPool<S> {
    /// Starts a thread per state. With `urgent`, one more thread runs urgent jobs only.
    pub fn start(name: &str, states: Vec<S>, urgent: Option<S>) -> std::io::Result<Self> {
        let max_running = (states.len() / 2).max(1);
        let shared = Arc::new(PoolShared {
            queue: Mutex::new(JobQueue::new(max_running)),
            job_ready: Condvar::new(),
            urgent_ready: Condvar::new(),
        });
        let pool = Self { shared, threads: Mutex::default() };
        for (state, is_urgent_only) in
            states.into_iter().map(|state| (state, false)).chain(urgent.map(|state| (state, true)))
        {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || shared.run_jobs(state, is_urgent_only))?;
            pool.threads.lock().push(thread);
        }
        Ok(pool)
    }

    /// Runs `work` on a thread of the pool. If this future is dropped before, the work does not
    /// run. It is dropped at once with all that it holds: a request that waits may hold a large
    /// body.
    pub async fn run<T, F>(&self, priority: JobPriority, work: F) -> Result<T, JobError>
    where
        T: Send + 'static,
        F: FnOnce(&mut S) -> T + Send + 'static,
    {
        let (sender, result) = oneshot::channel();
        let waiting = WaitingWork(Arc::new(Mutex::new(Some(work))));
        let work = waiting.0.clone();
        let job = move |state: &mut S| {
            let work = work.lock().take();
            if let Some(work) = work {
                let _ = sender.send(work(state));
            }
        };
        self.shared.submit(priority, Box::new(job))?;
        result.await.map_err(|_| JobError::Panicked)
    }

    /// Accepts no more jobs and waits until all accepted ones have run.
    pub async fn close(&self) {
        self.shared.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

/// The work of a job until a thread takes it. Dropped with the future that waits for it.
struct WaitingWork<F>(Arc<Mutex<Option<F>>>);

impl<F> Drop for WaitingWork<F> {
    fn drop(&mut self) {
        drop(self.0.lock().take());
    }
}

impl<S> Drop for FairPool<S> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<S> PoolShared<S> {
    fn submit(&self, priority: JobPriority, job: Job<S>) -> Result<(), JobError> {
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return Err(JobError::Closed);
        }
        match priority {
            JobPriority::Urgent => queue.urgent.push_back(job),
            JobPriority::Probe => queue.probes.push_back(job),
            JobPriority::Shared => queue.push(current_owner(), job),
        }
        drop(queue);
        self.job_ready.notify_one();
        if priority == JobPriority::Urgent {
            self.urgent_ready.notify_one();
        }
        Ok(())
    }

    fn close(&self) {
        self.queue.lock().is_closed = true;
        self.job_ready.notify_all();
        self.urgent_ready.notify_all();
    }

    fn run_jobs(&self, mut state: S, is_urgent_only: bool) {
        let ready = if is_urgent_only { &self.urgent_ready } else { &self.job_ready };
        let mut queue = self.queue.lock();
        loop {
            let Some((job, owner)) = queue.pop(is_urgent_only) else {
                // Jobs of users at their share may be left: the threads that run the others of
                // these users take them.
                if queue.is_closed {
                    return;
                }
                ready.wait(&mut queue);
                continue;
            };
            drop(queue);
            // A panic drops the job's sender, which its caller notices.
            let _ = catch_unwind(AssertUnwindSafe(|| job(&mut state)));
            queue = self.queue.lock();
            if let Some(owner) = owner {
                queue.finish(&owner);
            }
        }
    }
}

/// The waiting jobs, and how many run for each user.
struct JobQueue<S> {
    urgent: VecDeque<Job<S>>,
    probes: VecDeque<Job<S>>,
    waiting: HashMap<JobOwner, VecDeque<Job<S>>>,
    /// Users with waiting jobs, the next one first.
    order: VecDeque<JobOwner>,
    running: HashMap<JobOwner, usize>,
    /// Jobs of one user that may run at the same time.
    max_running: usize,
    is_closed: bool,
}

impl<S> JobQueue<S> {
    fn new(max_running: usize) -> Self {
        Self {
            urgent: VecDeque::new(),
            probes: VecDeque::new(),
            waiting: HashMap::new(),
            order: VecDeque::new(),
            running: HashMap::new(),
            max_running,
            is_closed: false,
        }
    }

    fn push(&mut self, owner: JobOwner, job: Job<S>) {
        let jobs = self.waiting.entry(owner.clone()).or_default();
        if jobs.is_empty() {
            self.order.push_back(owner);
        }
        jobs.push_back(job);
    }

    /// The next job, and its user if it counts against their share.
    fn pop(&mut self, is_urgent_only: bool) -> Option<(Job<S>, Option<JobOwner>)> {
        if let Some(job) = self.urgent.pop_front() {
            return Some((job, None));
        }
        if is_urgent_only {
            return None;
        }
        if let Some(job) = self.probes.pop_front() {
            return Some((job, None));
        }
        // Bounded by the number of threads: only users with running jobs are passed over.
        for _ in 0..self.order.len() {
            let owner = self.order.pop_front()?;
            if self.running.get(&owner).is_some_and(|running| *running >= self.max_running) {
                self.order.push_back(owner);
                continue;
            }
            let jobs = self.waiting.get_mut(&owner)?;
            let job = jobs.pop_front()?;
            if jobs.is_empty() {
                self.waiting.remove(&owner);
            } else {
                self.order.push_back(owner.clone());
            }
            *self.running.entry(owner.clone()).or_default() += 1;
            return Some((job, Some(owner)));
        }
        None
    }

    fn finish(&mut self, owner: &JobOwner) {
        if let Some(running) = self.running.get_mut(owner) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn owner(name: &str) -> JobOwner {
        Some(UserId::new_unchecked(name))
    }

    /// Pops all jobs that may run at once and returns their owners.
    fn pop_owners(queue: &mut JobQueue<()>) -> Vec<JobOwner> {
        std::iter::from_fn(|| queue.pop(false)).filter_map(|(_, owner)| owner).collect()
    }

    #[test]
    fn users_take_turns_and_hold_half_of_the_threads() {
        let mut queue = JobQueue::new(2);
        for _ in 0..4 {
            queue.push(owner("ann"), Box::new(|()| {}));
        }
        queue.push(owner("ben"), Box::new(|()| {}));
        let first = [owner("ann"), owner("ben"), owner("ann")];
        assert_eq!(pop_owners(&mut queue), first);
        queue.finish(&owner("ann"));
        queue.finish(&owner("ann"));
        assert_eq!(pop_owners(&mut queue), [owner("ann"), owner("ann")]);
        assert!(queue.order.is_empty() && queue.waiting.is_empty());
    }

    #[tokio::test]
    async fn slow_user_leaves_threads_to_others() {
        let pool = Arc::new(FairPool::start("test", vec![(), ()], Some(())).unwrap());
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        let slow: Vec<_> = (0..4)
            .map(|_| {
                let pool = pool.clone();
                let blocked = blocked.clone();
                let job = async move {
                    pool.run(JobPriority::Shared, move |()| blocked.lock().recv().is_ok()).await
                };
                #[expect(clippy::disallowed_methods, reason = "joined below")]
                tokio::spawn(run_as(UserId::new_unchecked("ann"), job))
            })
            .collect();
        let ben = UserId::new_unchecked("ben");
        let answer = run_as(ben, pool.run(JobPriority::Shared, |()| current_owner())).await;
        assert_eq!(answer, Ok(None), "the thread itself belongs to nobody");
        assert_eq!(pool.run(JobPriority::Urgent, |()| 1).await, Ok(1));
        for _ in 0..4 {
            release.send(()).unwrap();
        }
        for job in slow {
            assert_eq!(job.await.unwrap(), Ok(true));
        }
        pool.close().await;
        assert_eq!(pool.run(JobPriority::Shared, |()| ()).await, Err(JobError::Closed));
    }

    #[tokio::test]
    async fn dropped_request_drops_its_waiting_work() {
        let pool = FairPool::start("test", vec![()], None).unwrap();
        let (release, blocked) = mpsc::channel::<()>();
        let busy = pool.run(JobPriority::Shared, move |()| blocked.recv().is_ok());
        let body = Arc::new(());
        let held = body.clone();
        let waiting = pool.run(JobPriority::Shared, move |()| drop(held));
        let (mut busy, mut waiting) = (Box::pin(busy), Box::pin(waiting));
        assert!(futures::poll!(&mut busy).is_pending());
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(Arc::strong_count(&body), 2);
        drop(waiting);
        assert_eq!(Arc::strong_count(&body), 1);
        release.send(()).unwrap();
        assert_eq!(busy.await, Ok(true));
    }

    #[tokio::test]
    async fn panic_of_a_job_ends_no_thread() {
        let pool = FairPool::start("test", vec![()], None).unwrap();
        let panicked = pool.run(JobPriority::Shared, |()| panic!("in a test")).await;
        assert_eq!(panicked, Err::<(), _>(JobError::Panicked));
        assert_eq!(pool.run(JobPriority::Shared, |()| 2).await, Ok(2));
    }
}
