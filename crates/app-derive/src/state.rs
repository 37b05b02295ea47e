//! `#[derive(State)]` and `#[derive(Shape)]`: a description of a type, and which version of it it is.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, Data, DeriveInput, Error, Field, Fields, GenericParam, LitInt, Result};

/// What of serde makes positions vary, or reads something else than it writes.
const REFUSED: [&str; 7] = [
    "flatten",
    "untagged",
    "tag",
    "content",
    "skip_serializing_if",
    "skip_serializing",
    "skip_deserializing",
];

/// Both implementations.
///
/// # Errors
/// No version, and what no shape can say.
pub(crate) fn state(input: &DeriveInput) -> Result<TokenStream> {
    let version = version(input)?;
    if input.generics.params.iter().any(|param| !matches!(param, GenericParam::Lifetime(_))) {
        return Err(Error::new_spanned(
            &input.generics,
            "a state has no parameters: a schema version is of one type",
        ));
    }
    let shape = shape(input)?;
    let name = &input.ident;
    Ok(quote! {
        #shape

        #[automatically_derived]
        impl ::relmgr_app::state::State for #name {
            const SCHEMA: u32 = #version;
        }
    })
}

/// `impl Shape`.
///
/// # Errors
/// What no shape can say.
pub(crate) fn shape(input: &DeriveInput) -> Result<TokenStream> {
    let head = serde_words(&input.attrs)?;
    let body = match &input.data {
        Data::Union(data) => {
            return Err(Error::new_spanned(data.union_token, "a union cannot be written as state"));
        }
        Data::Struct(data) => {
            let fields = fields(&data.fields)?;
            quote!(to.word("struct("); #head #fields to.word(")");)
        }
        Data::Enum(data) => {
            let mut variants = TokenStream::new();
            for variant in &data.variants {
                let (name, words) = (variant.ident.to_string(), serde_words(&variant.attrs)?);
                let fields = fields(&variant.fields)?;
                variants.extend(quote!(to.word(#name); #words #fields));
            }
            quote!(to.word("enum("); #head #variants to.word(")");)
        }
    };
    let name = &input.ident;
    let mut generics = input.generics.clone();
    for param in generics.type_params_mut() {
        param.bounds.push(syn::parse_quote!(::relmgr_app::state::Shape));
    }
    let (implemented, of, condition) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #implemented ::relmgr_app::state::Shape for #name #of #condition {
            fn outline(to: &mut ::relmgr_app::state::Outline) {
                #body
            }
        }
    })
}

fn fields(fields: &Fields) -> Result<TokenStream> {
    let mut described = TokenStream::new();
    for field in fields {
        described.extend(of_field(field)?);
    }
    Ok(quote!(to.word("("); #described to.word(")");))
}

fn of_field(field: &Field) -> Result<TokenStream> {
    if is_skipped(&field.attrs)? {
        return Ok(TokenStream::new());
    }
    let name = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
    let (words, ty) = (serde_words(&field.attrs)?, &field.ty);
    let described = if is_opaque(&field.attrs)? {
        let name = ty.to_token_stream().to_string();
        quote!(to.word(#name);)
    } else {
        quote!(to.of::<#ty>();)
    };
    Ok(quote!(to.word(#name); #words #described))
}

/// `#[state(version = 1)]`.
fn version(input: &DeriveInput) -> Result<LitInt> {
    let mut version = None;
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("state")) {
        attribute.parse_nested_meta(|meta| match meta.path.is_ident("version") {
            true => {
                version = Some(meta.value()?.parse()?);
                Ok(())
            }
            false => Err(meta.error("there is `version = 1` for a state")),
        })?;
    }
    let missing = "say which version of the state this is: #[state(version = 1)]";
    version.ok_or_else(|| Error::new_spanned(&input.ident, missing))
}

/// `#[state(opaque)]`.
fn is_opaque(attributes: &[Attribute]) -> Result<bool> {
    let mut opaque = false;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("state")) {
        attribute.parse_nested_meta(|meta| match meta.path.is_ident("opaque") {
            true => {
                opaque = true;
                Ok(())
            }
            false => Err(meta.error("there is `opaque` for a field")),
        })?;
    }
    Ok(opaque)
}

/// Each of serde's attributes, which is part of the form: what it does to the bytes is not looked into.
fn serde_words(attributes: &[Attribute]) -> Result<TokenStream> {
    let mut words = TokenStream::new();
    each_serde(attributes, |name, text, meta| {
        if REFUSED.contains(&name) {
            let reason = format!(
                "serde's `{name}` has no place in a state: it is written by position, which this would make vary"
            );
            return Err(meta.error(reason));
        }
        words.extend(quote!(to.word(#text);));
        Ok(())
    })?;
    Ok(words)
}

/// `#[serde(skip)]`: the field is not there.
fn is_skipped(attributes: &[Attribute]) -> Result<bool> {
    let mut skipped = false;
    each_serde(attributes, |name, _, _| {
        skipped |= name == "skip";
        Ok(())
    })?;
    Ok(skipped)
}

fn each_serde(
    attributes: &[Attribute],
    mut each: impl FnMut(&str, &str, &syn::meta::ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| {
            let name = meta.path.to_token_stream().to_string();
            // Up to the next one: ` = "…"` or `(…)`.
            let mut text = name.clone();
            while !meta.input.is_empty() && !meta.input.peek(syn::Token![,]) {
                text.push_str(&meta.input.parse::<proc_macro2::TokenTree>()?.to_string());
            }
            each(&name, &text, &meta)
        })?;
    }
    Ok(())
}
