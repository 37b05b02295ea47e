//! One text with a name: where an offset is, and what its line looks like.

use std::fmt;
use std::ops::Range;

use unicode_width::UnicodeWidthChar;
use zeroize::Zeroizing;

use crate::fault::{Place, Snippet};
use crate::secret::MASK;

/// Byte offsets into a source's text.
pub(crate) type Span = Range<usize>;

/// A snippet is cut to so many characters around the caret: a line may be 4 MiB long.
const SHOWN: usize = 100;

/// A text that was read, with its name. Zeroed on drop, for secrets may stand in it.
pub(crate) struct Source {
    name: String,
    text: Zeroizing<String>,
    line_starts: Vec<usize>,
}

impl fmt::Debug for Source {
    /// The name alone: the text may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.name).finish()
    }
}

impl Source {
    pub(crate) fn new(name: impl Into<String>, text: Zeroizing<String>) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(breaks).collect();
        Self { name: name.into(), text, line_starts }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    /// Line and column of `offset`, both from 1, the column in characters.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let line = self.line_of(offset);
        let start = self.line_starts[line];
        (line + 1, self.text[start..offset].chars().filter(|c| *c != '\u{feff}').count() + 1)
    }

    pub(crate) fn place(&self, offset: usize) -> Place {
        let (line, column) = self.position(offset);
        Place { file: self.name.clone(), line: Some(line), column: Some(column) }
    }

    /// The line of `span` with carets under it. `masked` is the range of a value that must not be seen: it is
    /// replaced by `***`, and what points into it points at that.
    pub(crate) fn snippet(&self, span: &Span, masked: Option<&Span>) -> Snippet {
        let line = self.line_of(span.start.min(self.text.len()));
        let start = self.line_starts[line];
        let end = self.line_starts.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let mut cells = Vec::new();
        let mut mask_done = false;
        for (at, c) in self.text[start..end].char_indices().map(|(at, c)| (start + at, c)) {
            let marked = span.contains(&at);
            if masked.is_some_and(|masked| masked.contains(&at)) {
                if !mask_done {
                    let within = masked.is_some_and(|m| span.start < m.end && m.start < span.end);
                    cells.extend(MASK.chars().map(|c| (c, within)));
                    mask_done = true;
                }
            } else if !matches!(c, '\r' | '\u{feff}') {
                cells.push((c, marked));
            }
        }
        cut(&cells)
    }
}

/// A line's characters, each with whether it is marked, as a snippet.
fn cut(cells: &[(char, bool)]) -> Snippet {
    // A span that is empty or at the line's end has no cell of its own: the caret stands behind the line.
    let caret = cells.iter().position(|(_, marked)| *marked).unwrap_or(cells.len());
    let from = if caret > SHOWN * 3 / 4 { caret - SHOWN / 2 } else { 0 };
    let to = cells.len().min(from + SHOWN);
    let (mut text, mut carets) = (String::new(), String::new());
    if from > 0 {
        text.push('…');
        carets.push(' ');
    }
    for (c, marked) in &cells[from..to] {
        // A tab and whatever moves the cursor are shown as one blank, so that the carets stay below their text.
        let shown = if c.is_control() { ' ' } else { *c };
        text.push(shown);
        let width = shown.width().unwrap_or(0);
        carets.extend(std::iter::repeat_n(if *marked { '^' } else { ' ' }, width));
    }
    if to < cells.len() {
        text.push('…');
    }
    let carets = if caret == cells.len() { format!("{carets}^") } else { carets.trim_end().to_owned() };
    Snippet { text: text.trim_end().to_owned(), carets }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("app.conf", Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let source = source("a = 1\r\nü = ß\n");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(source.text().find('ß').unwrap()), (2, 5));
        assert_eq!(source.position(source.text().len()), (3, 1));
        assert_eq!(source.position(9_999), (3, 1));
    }

    #[test]
    fn carets_stand_below_wide_characters_and_tabs() {
        let source = source("a\t= 漢字x\n");
        let at = source.text().find('x').unwrap();
        let snippet = source.snippet(&(at..at + 1), None);
        assert_eq!((snippet.text.as_str(), snippet.carets.as_str()), ("a = 漢字x", "        ^"));
    }

    #[test]
    fn a_masked_value_is_not_shown_wherever_the_caret_is() {
        let source = source("password = abc#def # note\n");
        let snippet = source.snippet(&(14..15), Some(&(11..18)));
        assert_eq!(snippet.text, "password = *** # note");
        assert_eq!(snippet.carets, "           ^^^");
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let text = format!("{}X{}", "a".repeat(100_000), "b".repeat(100_000));
        let source = source(&text);
        let snippet = source.snippet(&(100_000..100_001), None);
        assert!(snippet.text.chars().count() < 110, "{}", snippet.text);
        let column = snippet.carets.chars().count() - 1;
        assert_eq!(snippet.text.chars().nth(column), Some('X'));
    }
}
