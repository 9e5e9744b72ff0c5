//! Just enough reading of Rust to find paths: comments and strings are taken out, the rest becomes tokens, and every path
//! that starts at the crate or at a neighbour is resolved.
//!
//! In comes source text, out come module paths. Macros are read like other code; names that a `use` brings in are seen at
//! the `use`. Deliberately absent: a parser, and any knowledge of which rooms exist.

/// The modules that `text` (a `lib.rs` or `mod.rs`) declares, in order.
pub(crate) fn declared(text: &str) -> Vec<String> {
    let code = code_of(text);
    let lines = code
        .lines()
        .map(str::trim)
        .filter(|line| line.ends_with(';'));
    let names = lines.filter_map(|line| {
        let line = line
            .strip_prefix("pub(crate) ")
            .or_else(|| line.strip_prefix("pub "))
            .unwrap_or(line);
        line.strip_prefix("mod ")
            .map(|rest| rest.trim_end_matches(';').trim().to_owned())
    });
    names.collect()
}

/// The module path of a file relative to `src`: `a/b.rs` and `a/b/mod.rs` are both `[a, b]`, `lib.rs` is `[]`.
pub(crate) fn module_of(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = path
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if parts.last().is_some_and(|last| {
        last == "mod" || (parts.len() == 1 && (last == "lib" || last == "main"))
    }) {
        parts.pop();
    }
    parts
}

/// `text` without comments and without the contents of strings and characters; line breaks stay.
pub(crate) fn code_of(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let at = |index: usize| bytes.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut index = 0;
    while index < bytes.len() {
        let skip_to = match (at(index), at(index + 1)) {
            ('/', '/') => (index..bytes.len())
                .find(|&end| at(end) == '\n')
                .unwrap_or(bytes.len()),
            ('/', '*') => block_comment_end(&bytes, index),
            ('"', _) => string_end(&bytes, index + 1),
            ('r', '"' | '#') if !at(index.wrapping_sub(1)).is_alphanumeric() => {
                raw_string_end(&bytes, index)
            }
            // A character, not a lifetime: 'x' or '\…'.
            ('\'', '\\') => (index + 3..bytes.len())
                .find(|&end| at(end) == '\'')
                .map_or(bytes.len(), |end| end + 1),
            ('\'', _) if at(index + 2) == '\'' => index + 3,
            _ => index,
        };
        if skip_to == index {
            out.push(at(index));
            index += 1;
            continue;
        }
        out.push(' ');
        out.extend(bytes[index..skip_to].iter().filter(|c| **c == '\n'));
        index = skip_to;
    }
    out
}

fn block_comment_end(text: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut index = start;
    while index < text.len() {
        match (text[index], text.get(index + 1)) {
            ('/', Some('*')) => (depth, index) = (depth + 1, index + 2),
            ('*', Some('/')) if depth == 1 => return index + 2,
            ('*', Some('/')) => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
    }
    text.len()
}

fn string_end(text: &[char], start: usize) -> usize {
    let mut index = start;
    while index < text.len() {
        match text[index] {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    text.len()
}

/// The end of the raw string that starts at `start`, or `start` when there is none (a raw identifier, a plain `r`).
fn raw_string_end(text: &[char], start: usize) -> usize {
    let hashes = text[start + 1..].iter().take_while(|c| **c == '#').count();
    if text.get(start + 1 + hashes) != Some(&'"') {
        return start;
    }
    let closes = |end: usize| {
        text[end] == '"'
            && text[end + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
    };
    (start + 2 + hashes..text.len())
        .find(|&end| closes(end))
        .map_or(text.len(), |end| end + 1 + hashes)
}

/// Identifiers, `::` and single other characters of `code`.
fn tokens(code: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let size = if first.is_alphanumeric() || first == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(size);
        if !token.trim().is_empty() {
            out.push(token);
        }
        rest = after;
    }
    out
}

/// Every path of `code` that starts with `crate`, `super` or `self`, resolved from module `here`; inline modules count as
/// levels. A path may end in items: only its first segments name modules.
pub(crate) fn paths_of(here: &[String], code: &str) -> Vec<Vec<String>> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut index = 0;
    while index < tokens.len() {
        let before = if index == 0 { "" } else { tokens[index - 1] };
        match tokens[index] {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.retain(|(_, opened)| *opened < depth + 1);
            }
            "mod" if tokens.get(index + 2) == Some(&"{") => {
                inline.push((tokens[index + 1].to_owned(), depth + 1))
            }
            "crate" | "super" | "self"
                if before != "::" && tokens.get(index + 1) == Some(&"::") =>
            {
                let mut base = here.to_vec();
                base.extend(inline.iter().map(|(name, _)| name.clone()));
                index = collect(&tokens, index, base, &mut found);
                continue;
            }
            _ => {}
        }
        index += 1;
    }
    found
}

/// Reads one path, and the group at its end if there is one; returns the index of the token after it.
fn collect(
    tokens: &[&str],
    start: usize,
    mut base: Vec<String>,
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut index = start;
    while let Some(token) = tokens.get(index) {
        match *token {
            "crate" => base.clear(),
            "super" => drop(base.pop()),
            "self" => {}
            "{" => {
                index += 1;
                while tokens.get(index).is_some_and(|token| *token != "}") {
                    index = if tokens[index] == "," {
                        index + 1
                    } else {
                        collect(tokens, index, base.clone(), found)
                    };
                }
                return index + 1;
            }
            name if name.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                base.push(name.to_owned())
            }
            _ => break,
        }
        index += 1;
        if tokens.get(index) != Some(&"::") {
            break;
        }
        index += 1;
    }
    found.push(base);
    // `use a::b as c` inside of a group.
    let renamed = tokens.get(index) == Some(&"as");
    let index = if renamed { index + 2 } else { index };
    if index > start { index } else { start + 1 }
}

/// Whether a path of `code` starts with the crate `name`, or the crate is imported as a whole.
pub(crate) fn names_crate(code: &str, name: &str) -> bool {
    let tokens = tokens(code);
    let hit = |index: usize| {
        let before = if index == 0 { "" } else { tokens[index - 1] };
        let after = tokens.get(index + 1).copied().unwrap_or("");
        let absolute = before == "::"
            && (index < 2
                || !tokens[index - 2].starts_with(|c: char| c.is_alphanumeric() || c == '_'));
        let path = after == "::" && (before != "::" || absolute);
        path || ((before == "use" || before == "crate") && (after == ";" || after == "as"))
    };
    (0..tokens.len()).any(|index| tokens[index] == name && hit(index))
}
