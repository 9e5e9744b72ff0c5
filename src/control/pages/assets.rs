//! The files of the pages, ready to be sent: with names that change with their content, and compressed once.
//!
//! What comes in: the table of files that the binary carries ([`SOURCES`]). What goes out: a [`Site`]. What always holds:
//!
//! - A file names only files above it in the table, and every name leads somewhere (`every_name_leads_to_a_file`).
//! - What is served under a name never changes, so that browsers may keep it for ever: the name holds a hash of the content, the names
//!   within it included (`a_change_below_changes_the_names_above`).
//! - The compressed body is the plain one (`compressed_is_the_same`).
//!
//! Deliberately absent: a build step, and files that are read while the server runs.

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use rustc_hash::FxHashMap;
use sha1::{Digest, Sha1};
use std::fmt::Write as _;
use std::io::Write as _;

use crate::limits;

/// A file as it stands in the tree: its name below `site/`, and its text.
pub type Source = (&'static str, &'static str);

macro_rules! site {
    ($($name:literal,)*) => {
        &[$(($name, include_str!(concat!("site/", $name))),)*]
    };
}

/// One file a row, lowest first: a file may name those above it.
pub const SOURCES: &[Source] = site![
    "robots.txt",
    "favicon.svg",
    "base.css",
    "index.html",
    "error.html",
    "api.html",
    "lib/format.js",
    "lib/write.js",
    "status/status.css",
    "status/history.js",
    "status/status.js",
    "status/status.html",
    "status/node_info.html",
    "lib/emitter.js",
    "lib/frame.js",
    "lib/presence.js",
    "lib/address.js",
    "lib/token.js",
    "lib/refusal.js",
    "lib/channel.js",
    "lib/client.js",
    "inspector/inspector.css",
    "inspector/settings.js",
    "inspector/memory.js",
    "inspector/json.js",
    "inspector/describe.js",
    "inspector/latency.js",
    "inspector/snippet.js",
    "inspector/explain.js",
    "inspector/frames.js",
    "inspector/dom.js",
    "inspector/batch.js",
    "inspector/log_view.js",
    "inspector/changes_view.js",
    "inspector/presence_view.js",
    "inspector/plot_view.js",
    "inspector/errors_view.js",
    "inspector/session.js",
    "inspector/sender.js",
    "inspector/tracker.js",
    "inspector/form.js",
    "inspector/pane.js",
    "inspector/main.js",
    "inspector/inspector.html",
    "cursors/cursors.css",
    "cursors/credentials.js",
    "cursors/pace.js",
    "cursors/glide.js",
    "cursors/people.js",
    "cursors/room.js",
    "cursors/stage.js",
    "cursors/cursors.js",
    "cursors/cursors.html",
];

/// Where the files stand whose names are hashed.
pub const ASSETS: &str = "/assets/";

/// Stands in a page for the version of the server.
const VERSION: &str = "{{version}}";

/// A body that can be sent, plain or compressed.
#[derive(Clone, Debug)]
pub struct File {
    /// Its media type.
    pub kind: &'static str,
    /// Names its content.
    pub hash: Box<str>,
    /// As it is.
    pub plain: Bytes,
    /// Compressed, where that is worth it.
    pub gzip: Option<Bytes>,
}

impl File {
    /// Prepares a body.
    #[must_use]
    pub fn new(kind: &'static str, plain: Bytes) -> Self {
        Self {
            kind,
            hash: hash(&plain),
            gzip: compressed(&plain),
            plain,
        }
    }
}

/// All files, prepared.
#[derive(Debug, Default)]
pub struct Site {
    /// Under the names that other files know: `inspector/main-3f9a1c2b.js`.
    assets: FxHashMap<String, File>,
    /// Under the names of the table: pages, and what has a fixed address.
    fixed: FxHashMap<&'static str, File>,
    /// What the names of the table became.
    names: FxHashMap<&'static str, String>,
}

impl Site {
    /// Prepares these files.
    ///
    /// # Errors
    ///
    /// A sentence: a name in a file leads nowhere.
    pub fn prepare(sources: &[Source]) -> Result<Self, String> {
        let mut site = Self::default();
        for &(name, text) in sources {
            let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
            let plain = match site.renamed(name, text)? {
                Some(renamed) => Bytes::from(renamed),
                None => Bytes::from_static(text.as_bytes()),
            };
            let file = File::new(kind(extension)?, plain);
            if is_fixed(extension) {
                site.fixed.insert(name, file);
            } else {
                let hashed = format!("{stem}-{}.{extension}", &file.hash[..HASH_IN_NAME]);
                site.names.insert(name, hashed.clone());
                site.assets.insert(hashed, file);
            }
        }
        Ok(site)
    }

    /// The file of this name with a hash.
    #[must_use]
    pub fn asset(&self, name: &str) -> Option<&File> {
        self.assets.get(name)
    }

    /// The file of this name in the table, if it is served as it is named.
    #[must_use]
    pub fn fixed(&self, name: &str) -> Option<&File> {
        self.fixed.get(name)
    }

    /// A file's text with the names that its references have become; nothing where it stays as it is.
    fn renamed(&self, name: &str, text: &str) -> Result<Option<String>, String> {
        let references = match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("js") => imports(text),
            Some("html" | "css") => addresses(text),
            _ => Vec::new(),
        };
        let has_version = name.ends_with(".html") && text.contains(VERSION);
        if references.is_empty() && !has_version {
            return Ok(None);
        }
        let mut renamed = String::with_capacity(text.len() + references.len() * (HASH_IN_NAME + 1));
        let mut done = 0;
        for (at, reference) in references {
            let target = resolved(name, reference);
            let hashed = self
                .names
                .get(target.as_str())
                .ok_or_else(|| format!("{name} names {reference}, which is no file above it"))?;
            renamed.push_str(&text[done..at]);
            // Only the last segment has become another.
            let folder = reference.rfind('/').map_or(0, |slash| slash + 1);
            renamed.push_str(&reference[..folder]);
            renamed.push_str(hashed.rsplit('/').next().unwrap_or(hashed));
            done = at + reference.len();
        }
        renamed.push_str(&text[done..]);
        Ok(Some(renamed.replace(VERSION, env!("CARGO_PKG_VERSION"))))
    }
}

/// Hexadecimal digits of the hash in a name: files are told apart from their own earlier contents alone.
const HASH_IN_NAME: usize = 8;

/// Whether such a file is served under a name without a hash.
fn is_fixed(extension: &str) -> bool {
    matches!(extension, "html" | "txt" | "svg")
}

fn kind(extension: &str) -> Result<&'static str, String> {
    Ok(match extension {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "txt" => "text/plain; charset=utf-8",
        _ => return Err(format!("nobody knows the type of .{extension}")),
    })
}

/// The relative paths that a module imports, and where they begin. Words that are no paths name nothing here.
fn imports(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, quote) in text.match_indices(['"', '\'']) {
        let before = text[..at].trim_end();
        let is_import = before.ends_with("import(")
            || ["from", "import"].iter().any(|word| {
                let rest = before.strip_suffix(word);
                rest.is_some_and(|rest| !rest.ends_with(is_of_word))
            });
        let path = &text[at + 1..];
        if is_import
            && path.starts_with('.')
            && let Some(end) = path.find(quote)
        {
            found.push((at + 1, &path[..end]));
        }
    }
    found
}

fn is_of_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '$' | '.' | '-')
}

/// The addresses below [`ASSETS`], and where they begin.
fn addresses(text: &str) -> Vec<(usize, &str)> {
    let found = text.match_indices(ASSETS);
    found
        .map(|(at, _)| {
            let address = &text[at..];
            let is_end = |it: char| {
                it.is_whitespace() || matches!(it, '"' | '\'' | ')' | '<' | '>' | '?' | '#')
            };
            (
                at,
                &address[..address.find(is_end).unwrap_or(address.len())],
            )
        })
        .collect()
}

/// The name in the table that a reference in the file `name` leads to.
fn resolved(name: &str, reference: &str) -> String {
    if let Some(rest) = reference.strip_prefix(ASSETS) {
        return rest.to_owned();
    }
    let mut segments: Vec<&str> = name.split('/').collect();
    segments.pop();
    for segment in reference.split('/') {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    segments.join("/")
}

fn hash(bytes: &[u8]) -> Box<str> {
    let digest = Sha1::digest(bytes);
    let mut text = String::with_capacity(2 * digest.len());
    for byte in digest {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text.into()
}

/// Nothing where it would be no shorter, or is too short to be compressed (spec: http-api 1.4).
fn compressed(plain: &[u8]) -> Option<Bytes> {
    if plain.len() as u64 <= limits::HTTP_COMPRESS_ABOVE_BYTES {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).expect("a Vec takes everything");
    let packed = encoder.finish().expect("a Vec takes everything");
    (packed.len() < plain.len()).then(|| packed.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    fn text(file: &File) -> &str {
        str::from_utf8(&file.plain).unwrap()
    }

    #[test]
    fn every_name_leads_to_a_file() {
        let site = Site::prepare(SOURCES).unwrap();
        assert_eq!(site.assets.len() + site.fixed.len(), SOURCES.len());
        for file in site.fixed.values().chain(site.assets.values()) {
            for (_, address) in addresses(text(file)) {
                let name = address.strip_prefix(ASSETS).unwrap();
                assert!(site.asset(name).is_some(), "{address}");
            }
            assert!(!text(file).contains(VERSION));
        }
        let modules = site.assets.iter().filter(|(name, _)| name.ends_with(".js"));
        for (name, file) in modules {
            for (_, path) in imports(text(file)) {
                let target = resolved(name, path);
                assert!(site.asset(&target).is_some(), "{name}: {path}");
            }
        }
    }

    #[test]
    fn files_may_name_those_above_them_alone() {
        let check = |sources: &[Source], expected: &str| {
            let refused = Site::prepare(sources).unwrap_err();
            assert_eq!(refused, expected);
        };
        check(
            &[("a.html", "<link href=\"/assets/b.css\">"), ("b.css", "")],
            "a.html names /assets/b.css, which is no file above it",
        );
        check(
            &[("x/a.js", "import \"./a.js\";")],
            "x/a.js names ./a.js, which is no file above it",
        );
        check(
            &[("x/a.js", ""), ("y/b.js", "export * from '../a.js'")],
            "y/b.js names ../a.js, which is no file above it",
        );
        check(&[("a.exe", "")], "nobody knows the type of .exe");
    }

    #[test]
    fn a_change_below_changes_the_names_above() {
        const MAIN: &str = "import { a,\n  b } from \"../lib/a.js\";\nimport('./b.js'); // from \"here\", './b.js'\n";
        let page = |lib: &'static str| {
            let site = Site::prepare(&[
                ("lib/a.js", lib),
                ("x/b.js", "const from = './b.js', text = \"import 'x'\";"),
                ("x/main.js", MAIN),
                (
                    "x/page.html",
                    "<script src=\"/assets/x/main.js\"></script> {{version}}",
                ),
            ]);
            let site = site.unwrap();
            let names = ["lib/a.js", "x/main.js"].map(|name| site.names[name].clone());
            let main = site.asset(&names[1]).unwrap();
            let lib = names[0].rsplit('/').next().unwrap();
            let other = site.names["x/b.js"].rsplit('/').next().unwrap();
            let expected = MAIN
                .replace("../lib/a.js", &format!("../lib/{lib}"))
                .replace("('./b.js')", &format!("('./{other}')"));
            assert_eq!(text(main), expected);
            text(site.fixed("x/page.html").unwrap()).to_owned()
        };
        let (one, other) = (page("export const a = 1;"), page("export const a = 2;"));
        assert_ne!(one, other);
        assert!(one.starts_with("<script src=\"/assets/x/main-"), "{one}");
        assert!(one.ends_with(concat!(".js\"></script> ", env!("CARGO_PKG_VERSION"))));
    }

    #[test]
    fn compressed_is_the_same() {
        let site = Site::prepare(SOURCES).unwrap();
        let mut packed_count = 0;
        for file in site.fixed.values().chain(site.assets.values()) {
            let Some(packed) = &file.gzip else {
                continue;
            };
            let mut unpacked = Vec::new();
            GzDecoder::new(&**packed)
                .read_to_end(&mut unpacked)
                .unwrap();
            assert!(unpacked == file.plain && packed.len() < file.plain.len());
            packed_count += 1;
        }
        assert!(packed_count > 5);
        assert_eq!(
            File::new("text/plain", Bytes::from_static(b"short")).gzip,
            None
        );
    }

    /// The policy forbids them, so a page that has them would be broken.
    #[test]
    fn no_page_has_a_script_or_a_style_within() {
        for (name, text) in SOURCES {
            let text = text.to_lowercase();
            for word in ["javascript:", "http-equiv", "eval(", "new function("] {
                let mut found = text.match_indices(word);
                let is_there = found.any(|(at, _)| !text[..at].ends_with(is_of_word));
                assert!(!is_there, "{name}: {word}");
            }
            if !name.ends_with(".html") {
                continue;
            }
            for word in ["<style", " style=", "<base", "<iframe", "<form action"] {
                assert!(!text.contains(word), "{name}: {word}");
            }
            for (_, script) in text
                .match_indices("<script")
                .map(|(at, _)| (at, &text[at..]))
            {
                let (head, rest) = script.split_once('>').unwrap();
                assert!(head.contains(" src=\"/assets/"), "{name}: {head}");
                assert!(rest.starts_with("</script>"), "{name}: {rest}");
            }
            let mut attributes = text
                .split_whitespace()
                .filter(|word| word.starts_with("on"));
            assert!(
                attributes.all(|word| !word.contains("=\"")),
                "{name} handles events"
            );
        }
    }
}
