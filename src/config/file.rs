//! The file that `ENV_FILE` names: variables that stand behind those of the environment, and that a reload reads again.
//!
//! What comes in: its text. What goes out: names and values. What always holds: an error names the line and never what stands in it,
//! since that may be a secret. Deliberately absent: variables in values, and every other thing that a shell would do.

use super::parse::ConfigError;
use std::collections::BTreeMap;

/// Reads lines `NAME=value`. Empty lines and those that begin with `#` are passed over, `export ` before a name as well; a value may stand
/// in quotes, which are taken off. A name that comes twice has the last value.
///
/// # Errors
///
/// The first line that is none of this.
pub(super) fn parse(path: &str, text: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut variables = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let pair = line
            .split_once('=')
            .map(|(name, value)| (name.trim_end(), value.trim_start()))
            .filter(|(name, _)| is_name(name));
        let Some((name, value)) = pair else {
            return Err(ConfigError(format!(
                "env ENV_FILE expected a file of lines NAME=value, got something else in line {} of {path}",
                index + 1
            )));
        };
        variables.insert(name.to_owned(), unquoted(value).to_owned());
    }
    Ok(variables)
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn unquoted(value: &str) -> &str {
    ['"', '\'']
        .iter()
        .find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_names_and_values() {
        let text = "# of ours\nPORT=4001\n\n  REGION = eu \nEMPTY=\nQUERY=\"SET a = 'b'\"\nexport NAME='x y'\nPORT=4002\nODD=\"\n";
        let variables = parse("x", text).unwrap();
        let expected = [
            ("EMPTY", ""),
            ("NAME", "x y"),
            ("ODD", "\""),
            ("PORT", "4002"),
            ("QUERY", "SET a = 'b'"),
            ("REGION", "eu"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(variables, BTreeMap::from(expected));
    }

    #[test]
    fn an_error_names_the_line_and_not_what_stands_in_it() {
        for wrong in ["secret", "=secret", "a b=secret", "1A=secret", "A-B=secret"] {
            let error = parse("the.env", &format!("# x\n{wrong}\n")).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("line 2 of the.env"), "{text}");
            assert!(
                text.contains("NAME=value") && !text.contains("secret"),
                "{text}"
            );
        }
    }
}
