//! One field of a struct: its name, and the expressions of its kind, shape and default.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Expr, GenericArgument, Ident, Lit, Meta, PathArguments, Result, Type};

use crate::case::Case;
use crate::conf;
use crate::serde::{self, Default};

/// A field of which there is a key, or a group of them.
pub(crate) struct Field<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) ty: &'a Type,
    pub(crate) name: String,
    pub(crate) doc: String,
    pub(crate) conf: conf::Field,
    pub(crate) serde: serde::Item,
}

/// The doc comment, without the blank that each line begins with.
pub(crate) fn doc(attributes: &[Attribute]) -> String {
    let text = |attribute: &Attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    let lines = attributes.iter().filter_map(text);
    let lines = lines.flat_map(|text| text.split('\n').map(str::to_owned).collect::<Vec<_>>());
    let lines: Vec<_> =
        lines.map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

/// What is in the angle brackets of a type of this name, the last of them.
fn within<'a>(ty: &'a Type, names: &[&str]) -> Option<&'a Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|last| names.iter().any(|name| last.ident == name))?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    // HashMap has a third, its hasher.
    types.take(2).last()
}

/// Whether it is a `Duration`, or an option, a list or a map of them.
fn is_duration(ty: &Type) -> bool {
    match within(ty, &["Option", "Vec", "BTreeMap", "HashMap"]) {
        Some(inner) => is_duration(inner),
        None => {
            matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Duration"))
        }
    }
}

impl<'a> Field<'a> {
    /// Reads a field; `None`: serde skips it.
    ///
    /// # Errors
    /// What serde would read in another way than the schema could say.
    pub(crate) fn read(field: &'a syn::Field, container: &serde::Container) -> Result<Option<Self>> {
        let Some(ident) = &field.ident else {
            return Err(Error::new_spanned(field, "a field without a name"));
        };
        let serde = serde::Item::read(&field.attrs)?;
        if serde.skip {
            conf::refuse(&field.attrs, "serde skips the field: no key can be said anything of")?;
            return Ok(None);
        }
        let conf = conf::Field::read(&field.attrs)?;
        if serde.flatten {
            conf::refuse(&field.attrs, "a flattened struct is no key: put it on the struct's own fields")?;
        }
        let name = serde.rename.clone().unwrap_or_else(|| container.case.field(&ident.unraw().to_string()));
        let read = Self { ident, ty: &field.ty, name, doc: doc(&field.attrs), conf, serde };
        read.check(container)?;
        Ok(Some(read))
    }

    fn check(&self, container: &serde::Container) -> Result<()> {
        let duration = is_duration(self.ty);
        let has_default = !matches!(self.serde.default, Default::None);
        if duration && !self.serde.with && self.conf.ty.is_none() {
            return Err(Error::new_spanned(
                self.ty,
                "a duration comes as a text such as \"30s\": add #[serde(with = \"relmgr_app::settings::duration\")]",
            ));
        }
        if self.serde.with && !duration && self.conf.ty.is_none() {
            return Err(Error::new_spanned(
                self.ty,
                "what serde's `with` reads cannot be seen from here: add #[conf(type = \"…\")] with the schema's type",
            ));
        }
        let missing_fails = !has_default && matches!(container.default, Default::None);
        if self.serde.with && missing_fails && within(self.ty, &["Option"]).is_some() {
            return Err(Error::new_spanned(
                self.ty,
                "with `with`, serde asks for the field even though it is an Option: add `default` to #[serde(…)]",
            ));
        }
        if let (Some(required), true) = (self.conf.required, has_default) {
            return Err(Error::new(required, "it is required and has a default: one of the two"));
        }
        Ok(())
    }

    /// Its kind, which is also the check of what stands where.
    pub(crate) fn kind(&self) -> TokenStream {
        let ty = self.ty;
        let mut kind = match &self.conf.ty {
            Some(word) => {
                let text = matches!(word.value().as_str(), "string" | "url");
                let base = if text { quote!(TEXT) } else { quote!(PLAIN) };
                kind_of(ty, &quote!(::relmgr_app::settings::__private::Kind::#base))
            }
            None => quote_spanned!(ty.span()=> <#ty as ::relmgr_app::settings::Setting>::KIND),
        };
        if self.serde.flatten {
            kind = quote_spanned!(ty.span()=> #kind.flat());
        }
        if self.conf.is_of_one_key() {
            kind = quote_spanned!(ty.span()=> #kind.one_key());
        }
        if let Some(span) = self.conf.secret {
            kind = quote_spanned!(span=> #kind.secret());
        }
        kind
    }

    fn shape(&self) -> TokenStream {
        let ty = self.ty;
        match &self.conf.ty {
            Some(word) => shape_of(ty, &word.value()),
            None => quote_spanned!(ty.span()=> <#ty as ::relmgr_app::settings::Setting>::shape()),
        }
    }

    /// The value of `place`, a reference to the field's type.
    pub(crate) fn value(&self, place: &TokenStream) -> TokenStream {
        match (self.conf.secret, &self.conf.ty) {
            (Some(_), _) => quote!(::relmgr_app::settings::__private::Value::Absent),
            (None, Some(_)) => value_of(self.ty, place),
            (None, None) => quote!(::relmgr_app::settings::Setting::to_value(#place)),
        }
    }

    /// Its default; `whole` if the struct as a whole has one, by this name.
    fn default(&self, whole: Option<&Ident>) -> TokenStream {
        let (ident, ty) = (self.ident, self.ty);
        let own = match &self.serde.default {
            Default::None => None,
            Default::Trait => Some(quote!(::core::default::Default::default())),
            Default::Path(path) => Some(quote!(#path())),
        };
        let value = match (own, whole) {
            (Some(own), _) => {
                let value = self.value(&quote!(&own));
                quote!({ let own: #ty = #own; #value })
            }
            (None, Some(whole)) => self.value(&quote!(&#whole.#ident)),
            (None, None) => return quote!(::core::option::Option::None),
        };
        quote!(::core::option::Option::Some(#value))
    }

    /// It as a member of its group.
    pub(crate) fn member(&self, whole: Option<&Ident>) -> TokenStream {
        let (name, shape, default, flat) =
            (&self.name, self.shape(), self.default(whole), self.serde.flatten);
        let conf = &self.conf;
        let optional = |value: Option<&TokenStream>| match value {
            Some(value) => quote!(::core::option::Option::Some(#value)),
            None => quote!(::core::option::Option::None),
        };
        let literal =
            |literal: &Option<conf::Literal>| optional(literal.as_ref().map(|literal| &literal.value));
        let text = |text: &Option<syn::LitStr>| optional(text.as_ref().map(|text| quote!(#text)).as_ref());
        let (example, min, max, schemes) =
            (literal(&conf.example), literal(&conf.min), literal(&conf.max), literal(&conf.schemes));
        let (env, pattern, deprecated, wildcard) =
            (text(&conf.env), text(&conf.pattern), text(&conf.deprecated), text(&conf.name));
        let (required, secret, restart) = (conf.required.is_some(), conf.secret.is_some(), conf.restart);
        let doc = &self.doc;
        let renamed = conf.renamed_from.iter().map(syn::LitStr::value);
        let was = self.serde.aliases.iter().cloned().chain(renamed);
        quote! {
            ::relmgr_app::settings::__private::Member {
                name: #name,
                shape: #shape,
                default: #default,
                flat: #flat,
                notes: ::relmgr_app::settings::__private::Notes {
                    doc: #doc,
                    example: #example,
                    env: #env,
                    required: #required,
                    secret: #secret,
                    restart: #restart,
                    min: #min,
                    max: #max,
                    pattern: #pattern,
                    schemes: #schemes,
                    deprecated: #deprecated,
                    was: ::std::vec![#(#was),*],
                    wildcard: #wildcard,
                },
            }
        }
    }
}

/// The kind of a type whose innermost one is of the kind `base`.
fn kind_of(ty: &Type, base: &TokenStream) -> TokenStream {
    if let Some(inner) = within(ty, &["Option"]) {
        let inner = kind_of(inner, base);
        return quote!(#inner.option());
    }
    if let Some(inner) = within(ty, &["Vec"]) {
        let inner = kind_of(inner, base);
        return quote!(#inner.item());
    }
    base.clone()
}

/// The shape of a type whose innermost one is the schema's type `word`.
fn shape_of(ty: &Type, word: &str) -> TokenStream {
    let private = quote!(::relmgr_app::settings::__private);
    if let Some(inner) = within(ty, &["Option"]) {
        let inner = shape_of(inner, word);
        return quote!(#private::Shape::Optional(::std::boxed::Box::new(#inner)));
    }
    let ty = type_of(ty, word);
    quote!(#private::Shape::Key(#ty))
}

fn type_of(ty: &Type, word: &str) -> TokenStream {
    let private = quote!(::relmgr_app::settings::__private);
    match within(ty, &["Vec"]) {
        Some(inner) => {
            let inner = type_of(inner, word);
            quote!(#private::Type::list(&#inner))
        }
        None => quote!(#private::Type::new(#word)),
    }
}

/// The value of `place`, whose innermost type writes itself as a text.
fn value_of(ty: &Type, place: &TokenStream) -> TokenStream {
    let value = quote!(::relmgr_app::settings::__private::Value);
    if let Some(inner) = within(ty, &["Option"]) {
        let inner = value_of(inner, &quote!(it));
        return quote!(match #place {
            ::core::option::Option::Some(it) => #inner,
            ::core::option::Option::None => #value::Absent,
        });
    }
    if let Some(inner) = within(ty, &["Vec"]) {
        let inner = value_of(inner, &quote!(it));
        return quote!(#value::List((#place).iter().map(|it| #inner).collect()));
    }
    quote!(#value::String(::std::string::ToString::to_string(#place)))
}

/// The name of an enum's word.
pub(crate) fn word(variant: &syn::Variant, serde: &serde::Item, case: Case) -> String {
    serde.rename.clone().unwrap_or_else(|| case.variant(&variant.ident.unraw().to_string()))
}
