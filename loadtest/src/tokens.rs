//! Who the members claim to be: one token that was given, or tokens that are signed, and signed again before they end.
//!
//! In: a secret and how long a token is good for, or a token. Out: the token of a user at this moment, the same on every thread and in
//! every child process.
//! Always holds: a signed token that is handed out has at least half of its life left. Time is divided into turns of half a life; the
//! tokens of a turn are good until the end of the next one, so a turn is what there is to put new ones in their place.
//! Deliberately absent: users who differ in more than their id.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};

/// What the ids of users begin with; a number of twelve digits follows.
pub const USER_PREFIX: &str = "00000000-0000-4000-8000-";

/// The claims that a server demands, and whose they are.
#[derive(Deserialize, Serialize)]
struct Claims {
    role: String,
    exp: u64,
    sub: String,
}

/// The tokens of a load.
#[derive(Clone, Debug)]
pub struct Tokens(Source);

#[derive(Clone, Debug)]
enum Source {
    Given(Arc<str>),
    Signed(Signer),
}

/// What tokens are signed with.
#[derive(Clone)]
struct Signer {
    key: EncodingKey,
    /// How many different users there are.
    users: usize,
    life: Duration,
    /// When the first turn began, since 1970.
    begun: Duration,
    /// The last token of each user.
    signed: RefCell<Vec<Option<Token>>>,
}

/// A token and the turn that it is of.
#[derive(Clone)]
struct Token {
    turn: u32,
    text: Arc<str>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { users, life, .. } = self;
        write!(f, "Signer({users} users, {life:?})")
    }
}

impl Tokens {
    /// One token for everybody, which nobody here can renew.
    pub fn given(token: &str) -> Self {
        Self(Source::Given(token.into()))
    }

    /// Tokens of `users` users, signed with `secret` and good for `life`, the first of them since `begun` (since 1970).
    ///
    /// # Errors
    ///
    /// Why nothing can be signed.
    pub fn signed(
        secret: &str,
        users: usize,
        life: Duration,
        begun: Duration,
    ) -> Result<Self, String> {
        let signer = Signer {
            key: EncodingKey::from_secret(secret.as_bytes()),
            users: users.max(1),
            life: life.max(Duration::from_secs(1)),
            begun,
            signed: RefCell::default(),
        };
        // What can be signed once can be signed again.
        signer.sign(0, 0)?;
        Ok(Self(Source::Signed(signer)))
    }

    /// How many different ones there are.
    pub fn users(&self) -> usize {
        match &self.0 {
            Source::Given(_) => 1,
            Source::Signed(signer) => signer.users,
        }
    }

    /// The number of the turn that it is now: the token of an earlier one has to be replaced.
    pub fn turn(&self) -> u32 {
        match &self.0 {
            Source::Given(_) => 0,
            Source::Signed(signer) => {
                let passed = since_1970().saturating_sub(signer.begun);
                (passed.as_secs_f64() / signer.turn().as_secs_f64()) as u32
            }
        }
    }

    /// How long a turn is; none when tokens are not renewed.
    pub fn turn_length(&self) -> Option<Duration> {
        match &self.0 {
            Source::Given(_) => None,
            Source::Signed(signer) => Some(signer.turn()),
        }
    }

    /// The token that member `index` has now. Members take the users in turn.
    pub fn of(&self, index: usize) -> Arc<str> {
        match &self.0 {
            Source::Given(token) => Arc::clone(token),
            Source::Signed(signer) => signer.token(index % signer.users, self.turn()),
        }
    }

    /// How much of a given token's life is left; nothing when it was signed here or does not say.
    pub fn given_for(&self) -> Option<Duration> {
        match &self.0 {
            Source::Given(token) => Some(ends_at(token)?.saturating_sub(since_1970())),
            Source::Signed(_) => None,
        }
    }
}

impl Signer {
    fn turn(&self) -> Duration {
        self.life / 2
    }

    fn token(&self, user: usize, turn: u32) -> Arc<str> {
        let mut signed = self.signed.borrow_mut();
        if signed.len() <= user {
            signed.resize(user + 1, None);
        }
        match &signed[user] {
            Some(token) if token.turn == turn => Arc::clone(&token.text),
            _ => {
                let text = self.sign(user, turn);
                let text: Arc<str> = text.expect("the first one could be signed").into();
                let token = Token {
                    turn,
                    text: Arc::clone(&text),
                };
                signed[user] = Some(token);
                text
            }
        }
    }

    /// # Errors
    ///
    /// Why nothing can be signed.
    fn sign(&self, user: usize, turn: u32) -> Result<String, String> {
        let ends = self.begun + self.turn() * turn + self.life;
        let claims = Claims {
            role: "authenticated".to_owned(),
            exp: ends.as_secs_f64().ceil() as u64,
            sub: format!("{USER_PREFIX}{user:012}"),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key)
            .map_err(|error| format!("token: {error}"))
    }
}

/// When a token ends, since 1970; nothing when it does not say so or is none.
pub(crate) fn ends_at(token: &str) -> Option<Duration> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let ends = claims["exp"].as_f64()?;
    Duration::try_from_secs_f64(ends).ok()
}

/// The time of day.
pub(crate) fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;

    fn claims(token: &str) -> Claims {
        let key = DecodingKey::from_secret(b"s");
        let validation = Validation::new(Algorithm::HS256);
        let decoded = jsonwebtoken::decode::<Claims>(token, &key, &validation);
        decoded.unwrap().claims
    }

    #[test]
    fn tokens_differ_by_user_and_verify() {
        let life = Duration::from_secs(3600);
        let tokens = Tokens::signed("s", 2, life, since_1970()).unwrap();
        assert_eq!(tokens.users(), 2);
        assert_ne!(tokens.of(0), tokens.of(1));
        assert_eq!(tokens.of(0), tokens.of(2));
        for index in 0..2 {
            let claims = claims(&tokens.of(index));
            assert_eq!(claims.role, "authenticated");
            assert_eq!(claims.sub, format!("{USER_PREFIX}{index:012}"));
        }
    }

    #[test]
    fn a_token_that_is_handed_out_has_half_of_its_life_left() {
        let (life, now) = (Duration::from_secs(1000), since_1970());
        for (age, turn) in [(0, 0), (400, 0), (600, 1), (900, 1), (12_345, 24)] {
            let tokens = Tokens::signed("s", 1, life, now - Duration::from_secs(age)).unwrap();
            assert_eq!(tokens.turn(), turn, "{age}");
            let left = ends_at(&tokens.of(0)).unwrap().saturating_sub(now);
            assert!(
                left >= life / 2 && left <= life + Duration::from_secs(2),
                "{age}: {left:?}"
            );
        }
        // Whoever signs it, and whenever in a turn: it is the same one.
        let tokens = || Tokens::signed("s", 1, life, now).unwrap().of(0);
        assert_eq!(tokens(), tokens());
    }

    #[test]
    fn a_token_is_signed_again_in_each_turn() {
        let life = Duration::from_secs(1000);
        let Source::Signed(signer) = Tokens::signed("s", 1, life, since_1970()).unwrap().0 else {
            panic!("not signed");
        };
        let first = signer.token(0, 0);
        assert_eq!(signer.token(0, 0), first);
        assert_eq!(claims(&signer.token(0, 1)).exp - claims(&first).exp, 500);
    }

    #[test]
    fn how_long_a_given_token_lasts_is_read_from_it() {
        let given = |payload: &str| {
            let payload = URL_SAFE_NO_PAD.encode(payload);
            Tokens::given(&format!("e30.{payload}.x"))
        };
        let left = given(r#"{"exp":4102444800}"#).given_for().unwrap();
        assert!(left > Duration::from_secs(1_000_000));
        assert_eq!(given(r#"{"exp":1}"#).given_for(), Some(Duration::ZERO));
        assert_eq!(given(r#"{"role":"anon"}"#).given_for(), None);
        assert_eq!(Tokens::given("sb_publishable_x").given_for(), None);
        assert_eq!(given("{}").turn_length(), None);
    }
}
