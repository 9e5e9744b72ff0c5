//! Secrets at rest: the two formats of the original, told apart by their beginning (spec: control-database 4).
//!
//! What comes in: keys, and plain or stored texts. What goes out: the other ones. What always holds: a text that does not decrypt is an
//! error that names the variable to look at, never a wrong secret; what is stored stays as it is while it says the same, so a record
//! that is written again unchanged is the same row (`unchanged_secrets_keep_their_stored_text`). Deliberately absent: where texts
//! are stored.
//!
//! | Format | Text | Key |
//! | --- | --- | --- |
//! | AES-128-ECB | base64 of the padded blocks | the 16 bytes of `DB_ENC_KEY` |
//! | AES-256-GCM | `g1:` and base64 of iv, tag and cipher text | the 32 bytes of `DB_ENC_KEY_GCM` |

use super::record::{ExtensionRecord, TenantRecord};
use crate::config::Config;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Secrets as a store has them, by the name of their field. They say nothing that the plain values do not say, so records are equal
/// whatever stands here.
#[derive(Clone, Default)]
pub struct Sealed(BTreeMap<String, String>);

impl Sealed {
    /// The stored text of this field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl PartialEq for Sealed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed")
    }
}

/// Why a text could not be encrypted or decrypted. It goes on from the words "the stored … of tenant …".
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum CipherError {
    /// There is nothing to write with.
    NoKeyToWrite,
    /// It is in the legacy format, and there is no key for that.
    NoLegacyKey,
    /// It is in the current format, and there is no key for that.
    NoGcmKey,
    /// It is in the legacy format, but another key's, or no such text at all.
    Legacy,
    /// It is in the current format, but another key's, or it was tampered with.
    Gcm,
    /// The cryptographic library refused.
    Refused,
}

impl fmt::Display for CipherError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoKeyToWrite => {
                "cannot be encrypted: DB_ENC_KEY is not set. Set it to the 16 bytes that the secrets of this database are encrypted with, \
                 or set DB_ENC_KEY_GCM to 32 bytes and DB_ENC_WRITE_GCM to true"
            }
            Self::NoLegacyKey => {
                "cannot be decrypted: it is encrypted with AES-128-ECB, and DB_ENC_KEY is not set. Set it to the 16 bytes that it was \
                 encrypted with"
            }
            Self::NoGcmKey => {
                "cannot be decrypted: it is encrypted with AES-256-GCM, and DB_ENC_KEY_GCM is not set. Set it to the 32 bytes that it was \
                 encrypted with"
            }
            Self::Legacy => {
                "cannot be decrypted with DB_ENC_KEY: it was encrypted with another key, or it is no encrypted text"
            }
            Self::Gcm => {
                "cannot be decrypted with DB_ENC_KEY_GCM (GCM decryption failed: ciphertext or authentication tag is invalid)"
            }
            Self::Refused => "cannot be encrypted: the cryptographic library refused",
        })
    }
}

impl std::error::Error for CipherError {}

/// A field that could not be encrypted or decrypted.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct FieldError {
    /// The name of the field.
    pub field: &'static str,
    /// Why.
    pub error: CipherError,
}

/// How secrets are encrypted and decrypted.
pub struct Cipher {
    legacy: Option<[u8; LEGACY_KEY_BYTES]>,
    /// The first one encrypts; all of them decrypt.
    gcm: Vec<LessSafeKey>,
    writes_gcm: bool,
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cipher")
            .field("writes_gcm", &self.writes_gcm)
            .finish_non_exhaustive()
    }
}

const LEGACY_KEY_BYTES: usize = 16;
/// Bytes of a key of the current format.
pub(super) const GCM_KEY_BYTES: usize = 32;
const BLOCK_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
const GCM_PREFIX: &str = "g1:";

impl Cipher {
    /// With the keys of the environment, of which there may be none.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let key = |key: &Option<crate::config::Secret>| {
            key.as_ref().map(|key| key.expose().as_bytes().to_vec())
        };
        Self::new(
            key(&config.encryption_key).as_deref(),
            key(&config.encryption_key_gcm).as_deref(),
            config.encrypts_with_gcm,
        )
    }

    /// With these keys. One of another length counts as none: the configuration has refused it before.
    #[must_use]
    pub fn new(legacy: Option<&[u8]>, gcm: Option<&[u8]>, writes_gcm: bool) -> Self {
        let mut cipher = Self {
            legacy: legacy.and_then(|key| key.try_into().ok()),
            gcm: Vec::new(),
            writes_gcm,
        };
        cipher.gcm.extend(gcm.and_then(gcm_key));
        cipher
    }

    /// The same with one more key of the current format, by which it encrypts if it could not so far.
    #[must_use]
    pub fn and_key(mut self, key: &[u8]) -> Self {
        self.gcm.extend(gcm_key(key));
        self.or_gcm()
    }

    /// The same, encrypting in the current format if it has a key for nothing else.
    #[must_use]
    pub fn or_gcm(mut self) -> Self {
        self.writes_gcm |= self.legacy.is_none();
        self
    }

    /// Whether it can encrypt.
    #[must_use]
    pub fn can_write(&self) -> bool {
        self.writes_current() || self.legacy.is_some()
    }

    /// Whether it encrypts in the current format.
    #[must_use]
    pub fn writes_current(&self) -> bool {
        self.writes_gcm && !self.gcm.is_empty()
    }

    /// Whether a stored text has the legacy format.
    #[must_use]
    pub fn is_legacy(stored: &str) -> bool {
        !stored.starts_with(GCM_PREFIX)
    }

    /// Encrypts.
    ///
    /// # Errors
    ///
    /// [`CipherError`]; nothing can be stored then.
    pub fn seal(&self, plain: &str) -> Result<String, CipherError> {
        if self.writes_current() {
            let mut iv = [0; NONCE_LEN];
            rand::fill(&mut iv).map_err(|_| CipherError::Refused)?;
            return seal_gcm(&self.gcm[0], iv, plain);
        }
        let key = self.legacy.ok_or(CipherError::NoKeyToWrite)?;
        seal_legacy(&key, plain)
    }

    /// Decrypts.
    ///
    /// # Errors
    ///
    /// [`CipherError`]; what was stored is of no use then.
    pub fn open(&self, stored: &str) -> Result<String, CipherError> {
        if let Some(text) = stored.strip_prefix(GCM_PREFIX) {
            if self.gcm.is_empty() {
                return Err(CipherError::NoGcmKey);
            }
            let mut opened = self.gcm.iter().filter_map(|key| open_gcm(key, text));
            return opened.next().ok_or(CipherError::Gcm);
        }
        let key = self.legacy.ok_or(CipherError::NoLegacyKey)?;
        open_legacy(&key, stored).ok_or(CipherError::Legacy)
    }

    /// Encrypts what is secret in a record into its `sealed` fields, where those do not say the same already.
    ///
    /// # Errors
    ///
    /// [`FieldError`] of the first field that could not be encrypted.
    pub fn seal_record(&self, record: &mut TenantRecord) -> Result<(), FieldError> {
        let secret = record.jwt_secret.clone();
        self.seal_field(&mut record.sealed, "jwt_secret", secret.as_deref())?;
        for extension in &mut record.extensions {
            if extension.has_secrets() {
                for name in ExtensionRecord::SECRET_SETTINGS {
                    let plain = extension.settings.get(name).and_then(Value::as_str);
                    self.seal_field(&mut extension.sealed, name, plain)?;
                }
            }
        }
        Ok(())
    }

    fn seal_field(
        &self,
        sealed: &mut Sealed,
        field: &'static str,
        plain: Option<&str>,
    ) -> Result<(), FieldError> {
        let Some(plain) = plain else {
            sealed.0.remove(field);
            return Ok(());
        };
        let keeps = |stored: &str| {
            !(self.writes_current() && Self::is_legacy(stored))
                && self.open(stored).is_ok_and(|known| known == plain)
        };
        if !sealed.get(field).is_some_and(keeps) {
            let text = self
                .seal(plain)
                .map_err(|error| FieldError { field, error })?;
            sealed.0.insert(field.to_owned(), text);
        }
        Ok(())
    }

    /// Decrypts a record that holds stored texts where its secrets belong; they go into its `sealed` fields.
    ///
    /// # Errors
    ///
    /// [`FieldError`] of the first field that could not be decrypted.
    pub fn open_record(&self, record: &mut TenantRecord) -> Result<(), FieldError> {
        if let Some(stored) = record.jwt_secret.take() {
            record.jwt_secret = Some(self.open_field(&mut record.sealed, "jwt_secret", stored)?);
        }
        for extension in &mut record.extensions {
            if !extension.has_secrets() {
                continue;
            }
            for name in ExtensionRecord::SECRET_SETTINGS {
                if let Some(Value::String(text)) = extension.settings.get_mut(name) {
                    let stored = std::mem::take(text);
                    *text = self.open_field(&mut extension.sealed, name, stored)?;
                }
            }
        }
        Ok(())
    }

    fn open_field(
        &self,
        sealed: &mut Sealed,
        field: &'static str,
        stored: String,
    ) -> Result<String, FieldError> {
        let plain = self
            .open(&stored)
            .map_err(|error| FieldError { field, error })?;
        sealed.0.insert(field.to_owned(), stored);
        Ok(plain)
    }
}

impl TenantRecord {
    /// The record with the stored texts where its secrets belong: what may leave the memory. [`Cipher::seal_record`] comes first; a
    /// secret that has no stored text is left out.
    #[must_use]
    pub fn at_rest(&self) -> Self {
        let mut stored = self.clone();
        stored.jwt_secret = self.sealed.get("jwt_secret").map(str::to_owned);
        for extension in &mut stored.extensions {
            extension.settings = extension.at_rest();
        }
        stored
    }
}

fn gcm_key(key: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key)
        .ok()
        .map(LessSafeKey::new)
}

fn seal_legacy(key: &[u8; LEGACY_KEY_BYTES], plain: &str) -> Result<String, CipherError> {
    let mut blocks = plain.as_bytes().to_vec();
    let padding = BLOCK_BYTES - blocks.len() % BLOCK_BYTES;
    let byte = u8::try_from(padding).expect("a block is shorter than 256 bytes");
    blocks.resize(blocks.len() + padding, byte);
    UnboundCipherKey::new(&AES_128, key)
        .and_then(EncryptingKey::ecb)
        .and_then(|key| key.encrypt(&mut blocks))
        .map_err(|_| CipherError::Refused)?;
    Ok(STANDARD.encode(blocks))
}

fn open_legacy(key: &[u8; LEGACY_KEY_BYTES], stored: &str) -> Option<String> {
    let mut blocks = STANDARD.decode(stored).ok()?;
    if blocks.is_empty() || blocks.len() % BLOCK_BYTES != 0 {
        return None;
    }
    let key = UnboundCipherKey::new(&AES_128, key).and_then(DecryptingKey::ecb);
    key.ok()?
        .decrypt(&mut blocks, DecryptionContext::None)
        .ok()?;
    // The original drops as many bytes as the last one says; with another key's text that would be a wrong secret.
    let padding = usize::from(*blocks.last()?);
    let length = blocks.len().checked_sub(padding)?;
    let is_padding = (1..=BLOCK_BYTES).contains(&padding)
        && blocks[length..]
            .iter()
            .all(|byte| usize::from(*byte) == padding);
    blocks.truncate(length);
    String::from_utf8(blocks).ok().filter(|_| is_padding)
}

fn seal_gcm(key: &LessSafeKey, iv: [u8; NONCE_LEN], plain: &str) -> Result<String, CipherError> {
    let mut text = plain.as_bytes().to_vec();
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(iv), Aad::empty(), &mut text)
        .map_err(|_| CipherError::Refused)?;
    let whole = [&iv[..], tag.as_ref(), &text].concat();
    Ok(format!("{GCM_PREFIX}{}", STANDARD.encode(whole)))
}

fn open_gcm(key: &LessSafeKey, text: &str) -> Option<String> {
    let whole = STANDARD.decode(text).ok()?;
    let (iv, rest) = whole.split_first_chunk::<NONCE_LEN>()?;
    let (tag, text) = rest.split_first_chunk::<TAG_BYTES>()?;
    let mut plain = vec![0; text.len()];
    key.open_separate_gather(
        Nonce::assume_unique_for_key(*iv),
        Aad::empty(),
        text,
        tag,
        &mut plain,
    )
    .ok()?;
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::super::TEST_DEFAULTS;
    use super::*;
    use serde_json::json;

    const VECTORS: &str =
        include_str!("../../../tests/conformance/vectors/control-database/crypto.json");
    const KEY: &[u8] = b"supabaserealtime";
    const KEY_GCM: &[u8] = b"abcdefghijklmnopqrstuvwxyz012345";

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
            .collect()
    }

    fn record() -> TenantRecord {
        let mut record = TenantRecord::new("t", &TEST_DEFAULTS, 1);
        let settings = json!({"db_host": "h", "db_port": "5432", "db_name": "postgres", "db_user": "u", "db_password": "p", "region": "r"});
        record.id = "id".to_owned();
        record.jwt_secret = Some("secret".to_owned());
        record.extensions.push(ExtensionRecord {
            kind: TenantRecord::POSTGRES_CDC.to_owned(),
            settings: settings.as_object().unwrap().clone(),
            inserted_at: 1,
            updated_at: 1,
            sealed: Sealed::default(),
        });
        record
    }

    #[test]
    fn vectors_are_met() {
        let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
        assert!(vectors.len() > 20);
        for vector in vectors {
            let text = |name: &str| vector[name].as_str();
            let name = text("name").unwrap();
            let (key, stored) = (text("key").unwrap().as_bytes(), text("stored").unwrap());
            let is_gcm = text("cipher") == Some("aes-256-gcm");
            let cipher = if is_gcm {
                Cipher::new(None, Some(key), true)
            } else {
                Cipher::new(Some(key), None, false)
            };
            let Some(plain) = text("plaintext") else {
                assert!(
                    text("error").is_some() && cipher.open(stored).is_err(),
                    "{name}"
                );
                continue;
            };
            assert_eq!(cipher.open(stored).as_deref(), Ok(plain), "{name}");
            assert_eq!(Cipher::is_legacy(stored), !is_gcm, "{name}");
            if is_gcm {
                let iv = unhex(text("iv_hex").unwrap()).try_into().unwrap();
                assert_eq!(
                    seal_gcm(&cipher.gcm[0], iv, plain).as_deref(),
                    Ok(stored),
                    "{name}"
                );
                let again = cipher.seal(plain).unwrap();
                assert!(
                    again != stored && cipher.open(&again).as_deref() == Ok(plain),
                    "{name}"
                );
            } else {
                assert_eq!(cipher.seal(plain).as_deref(), Ok(stored), "{name}");
            }
        }
    }

    #[test]
    fn what_another_key_has_encrypted_is_an_error() {
        let (ours, other) = (
            Cipher::new(Some(KEY), Some(KEY_GCM), false),
            Cipher::new(Some(b"1234567890123456"), Some(&[7; 32]), false),
        );
        for plain in ["", "a", "postgres", "1234567890123456", "pässwörd 😀"] {
            assert_eq!(
                other.open(&ours.seal(plain).unwrap()),
                Err(CipherError::Legacy)
            );
        }
        let ours = Cipher::new(None, Some(KEY_GCM), true);
        assert_eq!(other.open(&ours.seal("a").unwrap()), Err(CipherError::Gcm));
        for text in ["g1:", "g1:AAAA", "g1:not base64!"] {
            assert_eq!(ours.open(text), Err(CipherError::Gcm), "{text}");
        }
        // One block of which the last byte says more, nothing, or something else than the others.
        let cipher = Cipher::new(Some(KEY), None, false);
        for text in ["", "AAAA", "not base64!", "sWBpZNdjggEPTQVlI52Zfw"] {
            assert_eq!(cipher.open(text), Err(CipherError::Legacy), "{text:?}");
        }
    }

    #[test]
    fn missing_keys_are_named() {
        let none = Cipher::new(None, None, true);
        assert!(!none.can_write() && !none.writes_current());
        let check = |error: CipherError, variable: &str| {
            assert!(error.to_string().contains(variable), "{error}");
        };
        check(none.seal("a").unwrap_err(), "DB_ENC_KEY is not set");
        check(
            none.open("sWBpZNdjggEPTQVlI52Zfw==").unwrap_err(),
            "DB_ENC_KEY is not set",
        );
        check(
            none.open("g1:AAAA").unwrap_err(),
            "DB_ENC_KEY_GCM is not set",
        );
    }

    #[test]
    fn writing_follows_the_setting_and_reading_does_not() {
        let both = |writes_gcm| Cipher::new(Some(KEY), Some(KEY_GCM), writes_gcm);
        let (legacy, current) = (
            both(false).seal("a").unwrap(),
            both(true).seal("a").unwrap(),
        );
        assert!(Cipher::is_legacy(&legacy) && !Cipher::is_legacy(&current));
        for cipher in [both(false), both(true)] {
            assert_eq!(cipher.open(&legacy).as_deref(), Ok("a"));
            assert_eq!(cipher.open(&current).as_deref(), Ok("a"));
        }
        // Without the key the setting means nothing (spec: control-database 4.2).
        assert_eq!(Cipher::new(Some(KEY), None, true).seal("a"), Ok(legacy));
        // A further key reads, and writes only for who has nothing else.
        let file = [9; 32];
        let own = Cipher::new(None, None, false).and_key(&file);
        let sealed = own.seal("a").unwrap();
        assert!(!Cipher::is_legacy(&sealed));
        let later = both(false).and_key(&file);
        assert_eq!(later.open(&sealed).as_deref(), Ok("a"));
        assert!(Cipher::is_legacy(&later.seal("a").unwrap()));
    }

    #[test]
    fn records_are_sealed_and_opened() {
        let cipher = Cipher::new(Some(KEY), Some(KEY_GCM), false);
        let mut sealed = record();
        cipher.seal_record(&mut sealed).unwrap();
        assert_eq!(sealed, record(), "what is stored says nothing else");
        let mut stored = sealed.at_rest();
        let settings = Value::Object(stored.extensions[0].settings.clone());
        assert_eq!(settings["db_name"], "sWBpZNdjggEPTQVlI52Zfw==");
        assert_eq!(settings["region"], "r");
        assert_eq!(
            cipher
                .open(settings["db_password"].as_str().unwrap())
                .as_deref(),
            Ok("p")
        );
        let text = serde_json::to_string(&stored).unwrap();
        for secret in ["\"secret\"", "\"5432\"", "\"postgres\"", "\"p\""] {
            assert!(!text.contains(secret), "{text}");
        }
        cipher.open_record(&mut stored).unwrap();
        assert_eq!(stored, record());
        let shown = Value::Object(stored.extensions[0].shown());
        assert!(shown.get("db_password").is_none() && shown["db_name"] == settings["db_name"]);
        // An extension that was never stored shows nothing of its secrets.
        assert_eq!(
            Value::Object(record().extensions[0].shown()),
            json!({"region": "r"})
        );
    }

    #[test]
    fn unchanged_secrets_keep_their_stored_text() {
        let cipher = Cipher::new(Some(KEY), Some(KEY_GCM), true);
        let mut first = record();
        cipher.seal_record(&mut first).unwrap();
        let mut second = first.clone();
        second.jwt_secret = Some("other".to_owned());
        cipher.seal_record(&mut second).unwrap();
        assert_ne!(
            first.sealed.get("jwt_secret"),
            second.sealed.get("jwt_secret")
        );
        for name in ExtensionRecord::SECRET_SETTINGS {
            let of =
                |record: &TenantRecord| record.extensions[0].sealed.get(name).map(str::to_owned);
            assert!(of(&first).is_some() && of(&first) == of(&second), "{name}");
        }
        // A legacy text is not kept by who writes the current format.
        let mut old = record();
        Cipher::new(Some(KEY), None, false)
            .seal_record(&mut old)
            .unwrap();
        cipher.seal_record(&mut old).unwrap();
        assert!(!Cipher::is_legacy(old.sealed.get("jwt_secret").unwrap()));
        old.jwt_secret = None;
        cipher.seal_record(&mut old).unwrap();
        assert_eq!(old.at_rest().jwt_secret, None);
    }

    #[test]
    fn settings_of_unknown_extensions_are_nobodys_secrets() {
        let cipher = Cipher::new(Some(KEY), None, false);
        let mut record = record();
        record.extensions[0].kind = "other".to_owned();
        cipher.seal_record(&mut record).unwrap();
        let stored = record.at_rest();
        assert_eq!(stored.extensions[0].settings["db_host"], "h");
        let mut opened = stored;
        cipher.open_record(&mut opened).unwrap();
        assert_eq!(opened.extensions[0].settings["db_host"], "h");
        assert!(!opened.extensions[0].shown().contains_key("db_password"));
    }
}
