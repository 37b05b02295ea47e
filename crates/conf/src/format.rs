//! `conf fmt`: one way of writing, with every comment kept.
//!
//! One blank around `=`, `, ` between items, comments at the ends of neighbouring lines in one column, one empty
//! line at most, no blanks at line ends. Texts stay as they are written: quotes are the operator's choice.

use zeroize::Zeroizing;

use crate::ast::{Document, Item, Node};
use crate::fault::Faults;
use crate::layer::syntax_fault;
use crate::parse;
use crate::print;
use crate::schema::Schema;
use crate::source::{Source, Span};

/// A formatted line: what is set, and its comment.
enum Line {
    Blank,
    /// Stands alone, whatever is around it.
    Plain(String),
    Statement {
        text: String,
        comment: Option<String>,
    },
}

/// The file `name` with this `text`, formatted. The `schema` says which lines a fault may quote.
///
/// # Errors
/// Every mistake of the grammar: what cannot be read is not rewritten.
pub fn format(name: &str, text: &str, schema: Option<&Schema>) -> Result<String, Faults> {
    let (source, document) = parsed(name, text, schema)?;
    Ok(layout(&document.items.iter().map(|item| line(source.text(), item)).collect::<Vec<_>>()))
}

/// Parses a file that is about to be rewritten.
pub(crate) fn parsed(name: &str, text: &str, schema: Option<&Schema>) -> Result<(Source, Document), Faults> {
    let source = Source::new(name, Zeroizing::new(text.to_owned()));
    let (document, mistakes) = parse::document(source.text());
    let mut faults = Faults::default();
    faults.extend(mistakes.iter().map(|mistake| syntax_fault(&source, mistake, schema)));
    faults.or((source, document))
}

fn line(text: &str, item: &Item) -> Line {
    let comment = |span: &Span| text[span.clone()].trim_end().to_owned();
    match item {
        Item::Blank => Line::Blank,
        Item::Comment(span) => Line::Plain(comment(span)),
        Item::Include(include) => Line::Statement {
            text: format!("include {}", &text[include.pattern.span.clone()]),
            comment: include.comment.as_ref().map(comment),
        },
        Item::Setting(setting) => Line::Statement {
            text: format!("{} = {}", setting.key, written(text, &setting.value)),
            comment: setting.comment.as_ref().map(comment),
        },
    }
}

/// A value as it is written, with the blanks around commas and equal signs put right.
pub(crate) fn written(text: &str, node: &Node) -> String {
    match node {
        Node::Scalar(scalar) => text[scalar.span.clone()].to_owned(),
        Node::List(list) => {
            let items: Vec<_> = list.items.iter().map(|item| written(text, item)).collect();
            let items_text = items.join(", ");
            match (list.brackets, items.len()) {
                (true, _) => format!("[{items_text}]"),
                // The comma is what makes it a list.
                (false, 1) => format!("{items_text},"),
                (false, _) => items_text,
            }
        }
        Node::Record(record) => {
            let fields = record.fields.iter().map(|field| {
                format!("{} = {}", print::segment(&field.name), &text[field.value.span.clone()])
            });
            format!("[{}]", fields.collect::<Vec<_>>().join(", "))
        }
    }
}

fn layout(lines: &[Line]) -> String {
    let mut out = String::new();
    let mut blank = false;
    let mut index = 0;
    while index < lines.len() {
        match &lines[index] {
            Line::Blank => {
                blank = !out.is_empty();
                index += 1;
                continue;
            }
            _ if std::mem::take(&mut blank) => out.push('\n'),
            _ => {}
        }
        match &lines[index] {
            Line::Plain(text) => {
                out.push_str(text);
                out.push('\n');
                index += 1;
            }
            _ => index += statements(&lines[index..], &mut out),
        }
    }
    out
}

/// Writes the statements at the front of `lines`, which stand together, with their comments in one column; how
/// many there are.
fn statements(lines: &[Line], out: &mut String) -> usize {
    let group: Vec<_> = lines
        .iter()
        .map_while(|line| match line {
            Line::Statement { text, comment } => Some((text, comment)),
            Line::Blank | Line::Plain(_) => None,
        })
        .collect();
    let width = |text: &str| text.lines().last().map_or(0, |line| line.chars().count());
    let commented = group.iter().filter(|(_, comment)| comment.is_some());
    let column = commented.map(|(text, _)| width(text)).max().unwrap_or(0);
    for (text, comment) in &group {
        out.push_str(text);
        if let Some(comment) = comment {
            out.push_str(&" ".repeat(column - width(text) + 2));
            out.push_str(comment);
        }
        out.push('\n');
    }
    group.len()
}
