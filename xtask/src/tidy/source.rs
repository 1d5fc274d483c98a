//! Rust files without what is not code: comments, strings and character literals are blanked out, line by line the same
//! length, so that a word that is found is a word of the program, in its line.

/// A file's code.
pub(super) struct Source {
    /// With tests.
    pub(super) all: String,
    /// Without items under `#[cfg(test)]`; empty where the whole file is a test.
    pub(super) product: String,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let all = blank_comments_and_strings(text);
        let product = if is_test(path) {
            String::new()
        } else {
            blank_tests(&all)
        };
        Self { all, product }
    }
}

/// Whether a whole file serves tests only.
fn is_test(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    path.starts_with("tests/")
        || parts
            .iter()
            .any(|part| matches!(*part, "tests" | "tests.rs" | "benches" | "fuzz" | "examples"))
}

/// Words of `code` with their lines (from 1): identifiers, and keywords among them.
pub(super) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(index, line)| {
        line.split(|c: char| !is_word(c))
            .filter(|word| !word.is_empty())
            .map(move |word| (index + 1, word))
    })
}

/// The lines (from 1) in which `pattern` stands and is not the end or the beginning of longer words.
pub(super) fn lines_with<'c>(code: &'c str, pattern: &'c str) -> impl Iterator<Item = usize> + 'c {
    code.lines()
        .enumerate()
        .filter(move |(_, line)| stands_in(line, pattern))
        .map(|(index, _)| index + 1)
}

fn stands_in(line: &str, pattern: &str) -> bool {
    line.match_indices(pattern).any(|(at, _)| {
        let joins =
            |edge: Option<char>, inner: Option<char>| edge.is_some_and(is_word) && inner.is_some_and(is_word);
        !joins(line[..at].chars().next_back(), pattern.chars().next())
            && !joins(
                line[at + pattern.len()..].chars().next(),
                pattern.chars().next_back(),
            )
    })
}

pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Everything but code becomes spaces; line ends stay.
fn blank_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let length = if let Some(length) = literal(rest, before) {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            before = ' ';
            length
        } else {
            code.push(first);
            before = first;
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    code
}

/// How many bytes of `rest` are a comment, a string or a character; `None` if code begins here.
fn literal(rest: &str, before: char) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    if rest.starts_with('"') {
        return Some(quoted(rest, '"'));
    }
    if !is_word(before)
        && let Some(length) = raw_string(rest)
    {
        return Some(length);
    }
    if rest.starts_with('\'') {
        // 'a' and '\n' are characters, 'a without an end is a lifetime.
        let second = rest.chars().nth(1)?;
        let is_character = second == '\\' || rest.chars().nth(2) == Some('\'');
        return is_character.then(|| quoted(rest, '\''));
    }
    None
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        let ahead = &rest[at..];
        if ahead.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if ahead.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += ahead.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// A literal between two of the same quotes, with escapes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, `br#"…"#`.
fn raw_string(rest: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"]
        .into_iter()
        .find(|prefix| rest.starts_with(prefix))?;
    let hashes = rest[prefix.len()..]
        .bytes()
        .take_while(|byte| *byte == b'#')
        .count();
    let open = prefix.len() + hashes;
    rest[open..].starts_with('"').then_some(())?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(
        rest[open + 1..]
            .find(&end)
            .map_or(rest.len(), |at| open + 1 + at + end.len()),
    )
}

/// Blanks the items behind `#[cfg(test)]`.
fn blank_tests(code: &str) -> String {
    const MARKER: &str = "#[cfg(test)]";
    let mut product = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARKER) {
        product.push_str(&rest[..at]);
        let length = MARKER.len() + item(&rest[at + MARKER.len()..]);
        product.extend(
            rest[at..at + length]
                .chars()
                .map(|c| if c == '\n' { '\n' } else { ' ' }),
        );
        rest = &rest[at + length..];
    }
    product.push_str(rest);
    product
}

/// The length of the item at the beginning of `code`: up to its `;` or its closing brace.
fn item(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_no_code() {
        let text = "a // unsafe\n/* b /* c */ d */ e \"f\\\" g\" 'h' '\\'' i r#\"j\" k\"# l";
        let code = blank_comments_and_strings(text);
        assert_eq!(
            words(&code).collect::<Vec<_>>(),
            [(1, "a"), (2, "e"), (2, "i"), (2, "l")]
        );
        assert_eq!(
            code.lines().map(str::len).collect::<Vec<_>>(),
            text.lines().map(str::len).collect::<Vec<_>>()
        );
    }

    #[test]
    fn lifetimes_are_code() {
        let code = blank_comments_and_strings("fn f<'a>(x: &'a str) -> char { 'x' }");
        assert!(code.contains("&'a str"), "{code}");
        assert!(!code.contains("'x'"), "{code}");
    }

    #[test]
    fn test_modules_are_no_product() {
        let source = Source::new(
            "a/src/b.rs",
            "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { c.unwrap(); }\n}\nfn d() {}\n#[cfg(test)]\nmod tests;\nfn e() {}\n",
        );
        assert_eq!(
            words(&source.product)
                .filter(|(_, word)| word.len() == 1)
                .collect::<Vec<_>>(),
            [(1, "a"), (6, "d"), (9, "e")]
        );
        assert!(source.all.contains("unwrap"));
        assert!(Source::new("a/tests/b.rs", "fn a() {}").product.is_empty());
    }

    #[test]
    fn a_pattern_is_found_as_a_whole_word_only() {
        assert_eq!(
            lines_with("tokio::spawn\nmy_tokio::x\ntokio_util::x\n", "tokio::").collect::<Vec<_>>(),
            [1]
        );
        assert_eq!(
            lines_with("x.unwrap()\nx.unwrap_or(1)\n", ".unwrap()").collect::<Vec<_>>(),
            [1]
        );
    }
}
