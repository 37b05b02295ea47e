//! `#[conf(…)]`.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::parse::ParseStream;
use syn::{Attribute, Error, Lit, LitStr, Result, Token};

/// Of a field, in the order in which they are listed to those who misspell one.
const FIELD: [&str; 15] = [
    "example",
    "env",
    "required",
    "secret",
    "restart",
    "min",
    "max",
    "range",
    "pattern",
    "schemes",
    "deprecated",
    "renamed_from",
    "type",
    "name",
    "removed",
];

/// The schema's types that can be named in `type = "…"`: what is read from one text.
const TYPES: [&str; 5] = ["string", "url", "address", "ip", "bytes"];

/// A literal, as an expression of the schema's `Value` and as a number if it is one.
#[derive(Clone)]
pub(crate) struct Literal {
    pub(crate) value: TokenStream,
    number: Option<f64>,
    span: Span,
}

/// Of a field.
#[derive(Default)]
pub(crate) struct Field {
    pub(crate) example: Option<Literal>,
    pub(crate) env: Option<LitStr>,
    pub(crate) required: Option<Span>,
    pub(crate) secret: Option<Span>,
    pub(crate) restart: bool,
    pub(crate) min: Option<Literal>,
    pub(crate) max: Option<Literal>,
    pub(crate) pattern: Option<LitStr>,
    pub(crate) schemes: Option<Literal>,
    pub(crate) deprecated: Option<LitStr>,
    pub(crate) renamed_from: Vec<LitStr>,
    pub(crate) ty: Option<LitStr>,
    pub(crate) name: Option<LitStr>,
}

fn read(
    attributes: &[Attribute],
    mut each: impl FnMut(&str, &ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("conf")) {
        attribute.parse_nested_meta(|meta| {
            // `type` is a keyword, which is a path all the same.
            let name = meta.path.segments.first().map(|segment| segment.ident.to_string());
            each(&name.unwrap_or_default(), &meta)
        })?;
    }
    Ok(())
}

/// A text, a number, `true`, `false`, or several of them in `[…]`.
fn literal(input: ParseStream<'_>) -> Result<Literal> {
    let span = input.span();
    if input.peek(syn::token::Bracket) {
        let inner;
        syn::bracketed!(inner in input);
        let items = inner.parse_terminated(literal, Token![,])?;
        let items = items.iter().map(|item| &item.value);
        let value = quote!(::relmgr_app::settings::__private::Value::List(::std::vec![#(#items),*]));
        return Ok(Literal { value, number: None, span });
    }
    let negative = input.parse::<Option<Token![-]>>()?.is_some();
    let expected = "a text, a number, true, false or several of them in […] was expected";
    let (value, number) = match input.parse::<Lit>().map_err(|_| Error::new(span, expected))? {
        Lit::Str(text) if !negative => (quote!(#text), None),
        Lit::Bool(on) if !negative => (quote!(#on), None),
        Lit::Int(number) => {
            let number: i128 = number.base10_parse()?;
            let number = if negative { -number } else { number };
            (quote!(#number), Some(number as f64))
        }
        Lit::Float(number) => {
            let number: f64 = number.base10_parse()?;
            let number = if negative { -number } else { number };
            (quote!(#number), Some(number))
        }
        _ => return Err(Error::new(span, expected)),
    };
    let value = quote!(::relmgr_app::settings::__private::Value::from(#value));
    Ok(Literal { value, number, span })
}

/// `2..=100`, `2..`, `..=100`.
fn range(input: ParseStream<'_>) -> Result<(Option<Literal>, Option<Literal>)> {
    let span = input.span();
    let min = if input.peek(Token![..]) { None } else { Some(literal(input)?) };
    let closed = input.parse::<Option<Token![..=]>>()?.is_some();
    if !closed && input.parse::<Option<Token![..]>>()?.is_none() {
        return Err(Error::new(span, "a range was expected, such as 2..=100 or 1.."));
    }
    let ends = input.is_empty() || input.peek(Token![,]);
    let max = if ends { None } else { Some(literal(input)?) };
    match (&min, &max, closed) {
        (_, Some(max), false) => {
            Err(Error::new(max.span, "both ends belong to it: write ..= before the most that is allowed"))
        }
        (None, None, _) => Err(Error::new(span, "a range with neither end allows everything: leave it out")),
        _ => Ok((min, max)),
    }
}

impl Field {
    /// Reads those of a field.
    ///
    /// # Errors
    /// An attribute that is none, and those that contradict each other.
    pub(crate) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut field = Self::default();
        read(attributes, |name, meta| field.attribute(name, meta))?;
        field.check()?;
        Ok(field)
    }

    fn attribute(&mut self, name: &str, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let span = || syn::spanned::Spanned::span(&meta.path);
        match name {
            "example" => self.example = Some(literal(meta.value()?)?),
            "env" => self.env = Some(meta.value()?.parse()?),
            "required" => self.required = Some(span()),
            "secret" => self.secret = Some(span()),
            "restart" => self.restart = true,
            "min" => self.min = Some(literal(meta.value()?)?),
            "max" => self.max = Some(literal(meta.value()?)?),
            "range" => {
                let (min, max) = range(meta.value()?)?;
                self.min = min.or(self.min.take());
                self.max = max.or(self.max.take());
            }
            "pattern" => self.pattern = Some(meta.value()?.parse()?),
            "schemes" => self.schemes = Some(literal(meta.value()?)?),
            "deprecated" => self.deprecated = Some(meta.value()?.parse()?),
            "renamed_from" => self.renamed_from.push(meta.value()?.parse()?),
            "type" => self.ty = Some(meta.value()?.parse()?),
            "name" => self.name = Some(meta.value()?.parse()?),
            "removed" => return Err(Error::new(span(), "`removed` belongs to the struct, not to a field")),
            _ => {
                let known = FIELD[..FIELD.len() - 1].join(", ");
                return Err(Error::new(span(), format!("`{name}` is no attribute here; there are {known}")));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if let (Some(_), Some(example)) = (self.secret, &self.example) {
            return Err(Error::new(example.span, "a secret has no example: somebody would use it"));
        }
        if let (Some(min), Some(max)) = (&self.min, &self.max)
            && let (Some(least), Some(most)) = (min.number, max.number)
            && least > most
        {
            return Err(Error::new(max.span, "the most is less than the least: nothing could be right"));
        }
        if let Some(ty) = &self.ty
            && !TYPES.contains(&ty.value().as_str())
        {
            let known = TYPES.join(", ");
            return Err(Error::new(ty.span(), format!("types that are read from a text are {known}")));
        }
        let plain = |text: &str| text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        if let Some(name) = self.name.as_ref().filter(|name| name.value().is_empty() || !plain(&name.value()))
        {
            return Err(Error::new(name.span(), "letters, digits and `_`, without the `$`"));
        }
        Ok(())
    }

    /// Whether something is said that only one key can have.
    pub(crate) fn is_of_one_key(&self) -> bool {
        let values =
            self.example.is_some() || self.min.is_some() || self.max.is_some() || self.schemes.is_some();
        let texts = self.env.is_some() || self.pattern.is_some();
        values || texts || self.required.is_some() || self.secret.is_some()
    }
}

/// The keys that a struct says are gone, with what is said of each.
///
/// # Errors
/// Another attribute.
pub(crate) fn removed(attributes: &[Attribute]) -> Result<Vec<(LitStr, LitStr)>> {
    let mut removed = Vec::new();
    read(attributes, |name, meta| {
        if name != "removed" {
            let message =
                format!("`{name}` is no attribute of a struct; there is removed(\"key\", \"message\")");
            return Err(Error::new_spanned(&meta.path, message));
        }
        let inner;
        syn::parenthesized!(inner in meta.input);
        let key = inner.parse()?;
        inner.parse::<Token![,]>()?;
        removed.push((key, inner.parse()?));
        Ok(())
    })?;
    Ok(removed)
}

/// Refuses every attribute.
///
/// # Errors
/// There is one; `why` says where it belongs.
pub(crate) fn refuse(attributes: &[Attribute], why: &str) -> Result<()> {
    let found = attributes.iter().find(|attribute| attribute.path().is_ident("conf"));
    found.map_or(Ok(()), |attribute| Err(Error::new_spanned(attribute, why)))
}
