//! Text for a terminal. Names, ids, reasons and annotations are written by others: a control character in one could move the
//! cursor, write a line that grpclb never wrote, or set the terminal's title.
//!
//! [`Text`] holds what is escaped already, so that only grpclb's own styles reach the terminal as they are.

use std::fmt::Write as _;
use std::ops::Add;

/// Text that has no control characters but those of grpclb's own styles.
#[derive(Clone, Debug)]
pub(super) struct Text(String);

impl Text {
    /// Styles a word by an SGR code, and ends the style behind it.
    pub(super) fn styled(word: &str, code: u8) -> Self {
        let Self(word) = word.into();
        Self(format!("\x1b[{code}m{word}\x1b[0m"))
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let mut escaped = String::with_capacity(text.len());
        for character in text.chars() {
            escape(character, &mut escaped);
        }
        Self(escaped)
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl<T: Into<Text>> Add<T> for Text {
    type Output = Self;

    fn add(self, more: T) -> Self {
        Self(self.0 + &more.into().0)
    }
}

/// Escapes everything but the ends of lines.
pub(in crate::cli) fn escaped_lines(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character == '\n' {
            escaped.push('\n');
        } else {
            escape(character, &mut escaped);
        }
    }
    escaped
}

/// Writes a character as it is, or as Rust escapes it: controls, and those that are invisible or change the direction of others.
fn escape(character: char, out: &mut String) {
    match character {
        '\\' | '"' | '\'' => out.push(character),
        // Writing into a String cannot fail.
        _ => drop(write!(out, "{}", character.escape_debug())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_escapes_controls_and_keeps_what_is_printable() {
        let hostile = "a\x1b[2J\x1b]0;title\x07\r\n\u{9b}31m\u{202e}b\u{200b}\u{7f}";
        let escaped = Text::from(hostile).into_string();
        assert_eq!(
            escaped,
            r"a\u{1b}[2J\u{1b}]0;title\u{7}\r\n\u{9b}31m\u{202e}b\u{200b}\u{7f}"
        );
        let printable = r#"shop/cart: "é" → C:\x 'ok' ✓"#;
        assert_eq!(Text::from(printable).into_string(), printable);
        assert_eq!(escaped_lines("a\n\x1bb\n"), "a\n\\u{1b}b\n");
    }

    #[test]
    fn text_keeps_styles_and_escapes_what_they_surround() {
        let text = Text::styled("\x1b[0m", 31) + "\x1b";
        assert_eq!(text.into_string(), "\x1b[31m\\u{1b}[0m\x1b[0m\\u{1b}");
    }
}
