//! Where questions to tenants' databases are handed in, and from where their answers go out.
//!
//! What comes in: [`Question`]s of shards and [`Ask`]s of the REST routes. What goes out: letters to the shards and what
//! [`Desk::ask`] returns. What always holds: every question is answered once, also when a task panics over it
//! (`a_panic_is_an_answer`); at most [`limits::DESK_QUESTIONS_MAX`] wait, of one tenant at most
//! [`limits::DESK_QUESTIONS_PER_TENANT_MAX`] (`questions_beyond_the_bound_are_answered_at_once`); one that waits keeps no other from
//! being answered. Deliberately absent: what clients read of an error.

use super::authorization::Authorizer;
use super::clock;
use super::database::{Environment, Pool, PoolError};
use super::messages::replay;
use super::outgoing::Parcel;
use super::session::Sessions;
use super::supervise::{caught, panic_text};
use super::traces::{self, Span};
use crate::connection::ConnectionId;
use crate::error::ErrorCode;
use crate::limits;
use crate::logging::Line;
use crate::mail::{Answer, Ask, AskError, Question, Told};
use crate::metrics::millis;
use crate::tenant::TenantId;
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::spawn_local;

/// A way to the desk, from any thread. Clones lead to the same one.
#[derive(Clone, Debug)]
pub struct Desk {
    errands: mpsc::UnboundedSender<Errand>,
    /// Bounds the errands that are handed in and not answered.
    room: Arc<Semaphore>,
}

/// A question and the way back.
#[derive(Debug)]
struct Errand {
    tenant: TenantId,
    ask: Ask,
    asker: Asker,
    /// Given back when it is answered.
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Asker {
    Shard {
        index: usize,
        connection: ConnectionId,
        number: u32,
    },
    Route(oneshot::Sender<Outcome>),
}

type Outcome = Result<Told, AskError>;

/// What answers.
struct Clerk<F> {
    answer: F,
    room: Arc<Semaphore>,
    environment: Rc<Environment>,
    waiting: Waiting,
}

impl Desk {
    /// Opens it. To be called within the `LocalSet`; it closes with the last of its clones.
    #[must_use]
    pub fn start(sessions: Sessions, environment: Rc<Environment>) -> Self {
        let authorizer = Authorizer::new(Rc::clone(&environment));
        let answer = {
            let environment = Rc::clone(&environment);
            move |tenant, ask| {
                let (sessions, authorizer) = (sessions.clone(), authorizer.clone());
                let environment = Rc::clone(&environment);
                async move {
                    let mut span = span_of(&environment, tenant, &ask);
                    let failed = |span: &mut Span, error: &AskError| {
                        span.fail(&format!("{error:?}"));
                    };
                    let pool = sessions.open(tenant).await;
                    let pool = pool.inspect_err(|error| failed(&mut span, error))?;
                    let outcome = answer(&environment, &authorizer, &pool, tenant, ask).await;
                    if let Err(error) = &outcome {
                        failed(&mut span, error);
                    }
                    if let Err(AskError::MissingPartition | AskError::Other(_)) = &outcome {
                        sessions.doubt(tenant);
                    }
                    outcome
                }
            }
        };
        Self::with(environment, answer)
    }

    /// A desk where every question is answered by `answer`.
    fn with<F, A>(environment: Rc<Environment>, answer: F) -> Self
    where
        F: Fn(TenantId, Ask) -> A + 'static,
        A: Future<Output = Outcome> + 'static,
    {
        let (desk, mut inbox) = Self::new();
        let clerk = Rc::new(Clerk {
            answer,
            room: Arc::clone(&desk.room),
            environment,
            waiting: RefCell::default(),
        });
        spawn_local(async move {
            while let Some(errand) = inbox.recv().await {
                spawn_local(Rc::clone(&clerk).run(errand));
            }
        });
        desk
    }

    fn new() -> (Self, mpsc::UnboundedReceiver<Errand>) {
        let (errands, inbox) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(limits::DESK_QUESTIONS_MAX));
        (Self { errands, room }, inbox)
    }

    /// Hands in the question of a shard; never waits. When it cannot be asked, this is the answer.
    #[must_use = "a shard waits for an answer to each of its questions"]
    pub fn ask_for(&self, shard: usize, question: Question) -> Option<Box<Answer>> {
        let Question {
            tenant,
            connection,
            number,
            ask,
        } = question;
        let asker = Asker::Shard {
            index: shard,
            connection,
            number,
        };
        let reason = self.hand_in(tenant, ask, asker).err()?;
        Some(Box::new(Answer {
            connection,
            number,
            outcome: Err(reason),
        }))
    }

    /// Hands in a question at once; what is returned waits for the answer.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    pub fn ask(&self, tenant: TenantId, ask: Ask) -> impl Future<Output = Outcome> + Send + use<> {
        let (sender, answer) = oneshot::channel();
        let handed_in = self.hand_in(tenant, ask, Asker::Route(sender));
        async move {
            handed_in?;
            answer.await.unwrap_or(Err(AskError::Unreachable))
        }
    }

    fn hand_in(&self, tenant: TenantId, ask: Ask, asker: Asker) -> Result<(), AskError> {
        let room = Arc::clone(&self.room).try_acquire_owned();
        let errand = Errand {
            tenant,
            ask,
            asker,
            _room: room.map_err(|_| overrun())?,
        };
        // Closed only when the process ends.
        self.errands.send(errand).map_err(|_| AskError::Unreachable)
    }
}

/// The answer beyond a bound.
fn overrun() -> AskError {
    AskError::Other("too many questions wait for the tenant's database".to_owned())
}

impl<F, A> Clerk<F>
where
    F: Fn(TenantId, Ask) -> A,
    A: Future<Output = Outcome>,
{
    async fn run(self: Rc<Self>, errand: Errand) {
        let Errand {
            tenant,
            ask,
            asker,
            _room,
        } = errand;
        let outcome = match take_up(&self.waiting, tenant, self.room.available_permits()) {
            Some(_waiting) => match caught((self.answer)(tenant, ask)).await {
                Ok(outcome) => outcome,
                Err(panic) => {
                    let text = format!("a question was lost: {}", panic_text(&*panic));
                    say(&self.environment, tenant, ErrorCode::UnknownError, &text);
                    Err(AskError::Other(text))
                }
            },
            None => Err(overrun()),
        };
        match asker {
            Asker::Shard {
                index,
                connection,
                number,
            } => {
                let answer = Box::new(Answer {
                    connection,
                    number,
                    outcome,
                });
                let parcel = Parcel::Answer(index, answer);
                self.environment.outgoing.send(parcel).await;
            }
            // Who asked may have hung up.
            Asker::Route(sender) => drop(sender.send(outcome)),
        }
    }
}

/// Answers a question from an open pool.
async fn answer(
    environment: &Environment,
    authorizer: &Authorizer,
    pool: &Pool,
    tenant: TenantId,
    ask: Ask,
) -> Outcome {
    match ask {
        Ask::Connect => Ok(Told::Connected),
        Ask::Policies { context, checks } => {
            let verdict = authorizer.check(tenant, pool, &context, checks).await;
            verdict.map(Told::Verdict)
        }
        Ask::Replay {
            topic,
            since_ms,
            limit,
        } => {
            let outcome = match pool.lease().await {
                Ok(lease) => {
                    let began = clock::now();
                    let outcome = replay(&lease, &topic, since_ms, limit).await;
                    if let Some(tenant) = environment.tenants.borrow().directory.get(tenant) {
                        let took = clock::now().duration_since(began);
                        tenant.usage.latencies().replay.observe(millis(took));
                    }
                    outcome
                }
                Err(PoolError::TimedOut) => Err(AskError::PoolExhausted),
                Err(PoolError::Gone) => Err(AskError::Unreachable),
            };
            if let Err(error) = &outcome {
                // The shard tells the client, and the log, only that it failed.
                let code = match error {
                    AskError::PoolExhausted => ErrorCode::UnableCheckoutConnection,
                    _ => ErrorCode::ErrorExecutingTransaction,
                };
                let text = code.text().map(str::to_owned);
                let text = text.unwrap_or_else(|| format!("replay: {error:?}"));
                say(environment, tenant, code, &text);
            }
            outcome.map(Told::Replayed)
        }
    }
}

/// What a question is in a trace.
fn span_of(environment: &Environment, tenant: TenantId, ask: &Ask) -> Span {
    let name = match ask {
        Ask::Connect => "connect",
        Ask::Policies { .. } => "check policies",
        Ask::Replay { .. } => "replay",
    };
    let tenants = environment.tenants.borrow();
    let tenant = tenants.directory.get(tenant);
    traces::work(name, tenant.map(|tenant| &*tenant.external_id))
}

fn say(environment: &Environment, tenant: TenantId, code: ErrorCode, text: &str) {
    environment.write_of(tenant, Line::coded(clock::unix_ms(), code, text));
}

/// Questions of each tenant that are not answered yet.
type Waiting = RefCell<FxHashMap<TenantId, usize>>;

/// One question more of a tenant, as long as what is returned is there. Nothing when there are too many: a tenant whose database hangs
/// gets no more than what it leaves to the others, so however many hang, the next one still has room.
fn take_up(waiting: &Waiting, tenant: TenantId, free: usize) -> Option<Place<'_>> {
    let mut counts = waiting.borrow_mut();
    let count = counts.get(&tenant).copied().unwrap_or_default();
    if count >= limits::DESK_QUESTIONS_PER_TENANT_MAX || count > free {
        return None;
    }
    counts.insert(tenant, count + 1);
    Some(Place { waiting, tenant })
}

struct Place<'a> {
    waiting: &'a Waiting,
    tenant: TenantId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut counts = self.waiting.borrow_mut();
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
impl Desk {
    /// A desk whose questions come from routes and are answered by `answer`, on a thread of its own.
    pub(crate) fn for_test(answer: impl Fn(TenantId, Ask) -> Outcome + Send + 'static) -> Self {
        let (desk, mut inbox) = Self::new();
        std::thread::spawn(move || {
            while let Some(errand) = inbox.blocking_recv() {
                let outcome = answer(errand.tenant, errand.ask);
                match errand.asker {
                    Asker::Route(sender) => drop(sender.send(outcome)),
                    Asker::Shard { .. } => panic!("only routes ask here"),
                }
            }
        });
        desk
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::control::log::Log;
    use crate::control::outgoing::Outgoing;
    use crate::control::tenants::tests::registry;
    use crate::mail::TopicHasher;
    use std::time::Duration;
    use tokio::task::LocalSet;

    const TENANT: TenantId = TenantId(7);

    fn question(tenant: TenantId, number: u32) -> Question {
        Question {
            tenant,
            connection: ConnectionId::new(3, 4),
            number,
            ask: Ask::Connect,
        }
    }

    /// An environment, and what goes out of it to the shards.
    fn environment() -> (Rc<Environment>, mpsc::Receiver<Parcel>) {
        let (outgoing, parcels) = Outgoing::new();
        let (config, _) = Config::from_env(|_| None).unwrap();
        let environment = Environment {
            config: Arc::new(config),
            tenants: registry().watch(),
            outgoing,
            notices: mpsc::channel(1).0,
            hasher: TopicHasher::new(1),
            cell: 0,
            log: Log::for_test().0,
        };
        (Rc::new(environment), parcels)
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, test)
    }

    async fn answer(parcels: &mut mpsc::Receiver<Parcel>) -> (usize, Answer) {
        match parcels.recv().await {
            Some(Parcel::Answer(shard, answer)) => (shard, *answer),
            _ => panic!("only answers are expected"),
        }
    }

    #[test]
    fn answers_go_back_to_who_asked() {
        run(async {
            let (environment, mut parcels) = environment();
            let desk = Desk::with(environment, |_, _| async { Ok(Told::Connected) });
            assert!(desk.ask_for(5, question(TENANT, 6)).is_none());
            let (shard, answer) = answer(&mut parcels).await;
            assert_eq!(
                (shard, answer.number, answer.outcome),
                (5, 6, Ok(Told::Connected))
            );
            assert_eq!(answer.connection, ConnectionId::new(3, 4));
            assert_eq!(desk.ask(TENANT, Ask::Connect).await, Ok(Told::Connected));
        });
    }

    #[test]
    fn a_panic_is_an_answer() {
        run(async {
            let (environment, mut parcels) = environment();
            let desk = Desk::with(environment, |tenant, _| async move {
                assert_eq!(tenant, TENANT, "a defect");
                Ok(Told::Connected)
            });
            assert!(desk.ask_for(0, question(TenantId(8), 1)).is_none());
            let (_, lost) = answer(&mut parcels).await;
            assert!(
                matches!(&lost.outcome, Err(AskError::Other(text)) if text.contains("a defect")),
                "{lost:?}"
            );
            assert_eq!(
                desk.ask(TENANT, Ask::Connect).await,
                Ok(Told::Connected),
                "the desk goes on"
            );
        });
    }

    #[test]
    fn questions_beyond_the_bound_are_answered_at_once() {
        run(async {
            let (environment, mut parcels) = environment();
            // The database of every tenant but one hangs.
            let desk = Desk::with(environment, |tenant, _| async move {
                if tenant != TENANT {
                    std::future::pending::<()>().await;
                }
                Ok(Told::Connected)
            });
            let mut tenants = (0..).map(|index| TenantId(100 + index));
            for _ in 0..limits::DESK_QUESTIONS_MAX / limits::DESK_QUESTIONS_PER_TENANT_MAX - 1 {
                let hanging = tenants.next().unwrap();
                for number in 0..limits::DESK_QUESTIONS_PER_TENANT_MAX {
                    let number = u32::try_from(number).unwrap();
                    assert!(desk.ask_for(0, question(hanging, number)).is_none());
                }
                assert!(desk.ask_for(0, question(hanging, u32::MAX)).is_none());
                let (_, beyond) = answer(&mut parcels).await;
                assert_eq!((beyond.number, beyond.outcome), (u32::MAX, Err(overrun())));
                assert_eq!(desk.ask(TENANT, Ask::Connect).await, Ok(Told::Connected));
            }
            while desk.room.available_permits() > 0 {
                assert!(desk.ask_for(0, question(TenantId(9), 1)).is_none());
            }
            let beyond = desk.ask_for(0, question(TENANT, 2)).unwrap();
            assert_eq!((beyond.number, beyond.outcome), (2, Err(overrun())));
            assert_eq!(desk.ask(TENANT, Ask::Connect).await, Err(overrun()));
        });
    }

    #[test]
    fn however_many_databases_hang_the_next_tenant_has_room() {
        let waiting = Waiting::default();
        let mut hanging = Vec::new();
        for tenant in 0..12 {
            let free = || limits::DESK_QUESTIONS_MAX - waiting.borrow().values().sum::<usize>();
            while let Some(place) = take_up(&waiting, TenantId(tenant), free()) {
                hanging.push(place);
            }
            assert!(free() > 0, "after {tenant}");
        }
        drop(hanging);
        assert!(waiting.borrow().is_empty());
    }

    #[test]
    fn room_is_given_back() {
        run(async {
            let (environment, mut parcels) = environment();
            let desk = Desk::with(environment, |_, _| async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Err(AskError::Unreachable)
            });
            for number in 0..100 {
                assert!(desk.ask_for(0, question(TENANT, number)).is_none());
            }
            for _ in 0..100 {
                answer(&mut parcels).await;
            }
            tokio::task::yield_now().await;
            assert_eq!(desk.room.available_permits(), limits::DESK_QUESTIONS_MAX);
        });
    }
}
