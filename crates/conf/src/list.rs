//! Lists and records in `app.conf`.
//!
//! ```text
//! value    = item, { ",", item }, [ "," ]                 more than one, or a last comma: a list
//! item     = scalar | list | record
//! list     = "[", [ scalar, { ",", scalar }, [ "," ] ], "]"
//! record   = "[", field, { ",", field }, [ "," ], "]"
//! field    = segment, "=", scalar
//! ```

use winnow::combinator::opt;
use winnow::prelude::*;
use winnow::stream::{Location, Stream};

use crate::ast::{Field, List, Node, Record, Scalar};
use crate::parse::{Input, Mistake, Parsed, at_line_end, blanks, segment};
use crate::scalar::scalar;
use crate::source::Span;

/// A value: one item, or a list of several without brackets.
pub(crate) fn list_or_item(input: &mut Input<'_>) -> Parsed<Node> {
    let start = input.current_token_start();
    let first = item(input)?;
    let mut items = vec![first];
    let mut end = items[0].span().end;
    let mut is_list = false;
    while opt((blanks, ',')).parse_next(input)?.is_some() {
        is_list = true;
        end = input.current_token_start();
        // A last comma is allowed: it makes a list of one item.
        let after = input.checkpoint();
        blanks(input)?;
        if at_line_end(input) || (input.starts_with('#') && end < input.current_token_start()) {
            input.reset(&after);
            break;
        }
        let next = item(input)?;
        end = next.span().end;
        items.push(next);
    }
    match items.pop() {
        Some(only) if !is_list => Ok(only),
        last => {
            items.extend(last);
            Ok(Node::List(List { items, brackets: false, span: start..end }))
        }
    }
}

fn item(input: &mut Input<'_>) -> Parsed<Node> {
    if input.starts_with('[') { brackets(input) } else { scalar(false).parse_next(input).map(Node::Scalar) }
}

/// `[a, b]` or `[key = value, …]`.
fn brackets(input: &mut Input<'_>) -> Parsed<Node> {
    let start = input.current_token_start();
    '['.parse_next(input)?;
    let (mut items, mut fields) = (Vec::new(), Vec::new());
    loop {
        blanks(input)?;
        if opt(']').parse_next(input)?.is_some() {
            break;
        }
        let at = input.current_token_start();
        if at_line_end(input) {
            return Mistake::new(start..start + 1, "this `[` is never closed")
                .hint("a list ends on its line")
                .cut();
        }
        match entry(input)? {
            Entry::Item(scalar) => items.push(Node::Scalar(scalar)),
            Entry::Field(field) => fields.push(field),
        }
        if !items.is_empty() && !fields.is_empty() {
            return Mistake::new(at..input.current_token_start(), "items and `key = value` pairs do not mix")
                .hint("an item with `=` in it needs quotes")
                .cut();
        }
        blanks(input)?;
        if opt(',').parse_next(input)?.is_none() && !input.starts_with(']') {
            let at = input.current_token_start();
            return match input.chars().next() {
                None | Some('\n' | '\r' | '#') => Mistake::new(start..start + 1, "this `[` is never closed")
                    .hint("a list ends on its line")
                    .cut(),
                Some(c) => Mistake::new(at..at + c.len_utf8(), "`,` or `]` was expected here").cut(),
            };
        }
    }
    let span = start..input.current_token_start();
    after_brackets(input, &span)?;
    Ok(if fields.is_empty() {
        Node::List(List { items, brackets: true, span })
    } else {
        Node::Record(Record { fields, span })
    })
}

/// A text that only begins like a list, most often an IPv6 address: `[::1]:8080`.
fn after_brackets(input: &mut Input<'_>, span: &Span) -> Parsed<()> {
    match input.chars().next() {
        None | Some(' ' | '\t' | ',' | '\n' | '\r' | '#') => Ok(()),
        Some(_) => Mistake::new(span.end..span.end + 1, "a list ends here, and more follows")
            .hint("a text that begins with `[`, such as \"[::1]:8080\", needs quotes")
            .cut(),
    }
}

enum Entry {
    Item(Scalar),
    Field(Field),
}

fn entry(input: &mut Input<'_>) -> Parsed<Entry> {
    let at = input.current_token_start();
    match input.chars().next() {
        Some('[') => {
            return Mistake::new(at..at + 1, "a list within a list within brackets")
                .hint("one level only: [1, 2], [3, 4] is a list of lists")
                .cut();
        }
        Some(',') => return Mistake::new(at..at + 1, "an item is missing before this comma").cut(),
        _ => {}
    }
    // A pair only if a segment and `=` stand here: `http://x/?a=1` is an item.
    let start = input.checkpoint();
    if let Ok((name, name_span)) = segment.with_span().parse_next(input)
        && (blanks, '=', blanks).parse_next(input).is_ok()
    {
        let value = scalar(true).parse_next(input)?;
        return Ok(Entry::Field(Field { name, name_span, value }));
    }
    input.reset(&start);
    scalar(true).parse_next(input).map(Entry::Item)
}
