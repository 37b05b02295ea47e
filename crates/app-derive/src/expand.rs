//! What the macro writes.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DataEnum, DeriveInput, Error, Fields, FieldsNamed, Ident, Result};

use crate::conf;
use crate::field::{self, Field};
use crate::serde::{Container, Default, Item};

/// The implementations for `input`.
///
/// # Errors
/// What of it no schema can say, each at its place.
pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &input.generics,
            "settings have no parameters: a schema is of one type",
        ));
    }
    let container = Container::read(&input.attrs)?;
    match &input.data {
        Data::Union(data) => {
            Err(Error::new_spanned(data.union_token, "a union cannot be read from app.conf"))
        }
        Data::Enum(data) => words(input, data, &container),
        Data::Struct(data) => match &data.fields {
            Fields::Unit => {
                Err(Error::new_spanned(&input.ident, "it holds nothing: `struct Name {}` has no keys"))
            }
            Fields::Named(fields) if container.transparent => newtype(input, &fields.named),
            Fields::Named(fields) => group(input, fields, &container),
            Fields::Unnamed(fields) => newtype(input, &fields.unnamed),
        },
    }
}

/// Puts the errors of several parts together: a developer sees all of them at once.
fn together<T>(results: impl Iterator<Item = Result<T>>) -> Result<Vec<T>> {
    let (mut good, mut bad) = (Vec::new(), None::<Error>);
    for result in results {
        match (result, &mut bad) {
            (Ok(part), _) => good.push(part),
            (Err(error), Some(errors)) => errors.combine(error),
            (Err(error), None) => bad = Some(error),
        }
    }
    bad.map_or(Ok(good), Err)
}

/// `impl Setting`.
fn setting(name: &Ident, kind: &TokenStream, shape: &TokenStream, value: &TokenStream) -> TokenStream {
    quote! {
        #[automatically_derived]
        #[allow(deprecated)]
        impl ::relmgr_app::settings::Setting for #name {
            const KIND: ::relmgr_app::settings::__private::Kind = #kind;

            fn shape() -> ::relmgr_app::settings::__private::Shape {
                #shape
            }

            fn to_value(&self) -> ::relmgr_app::settings::__private::Value {
                #value
            }
        }
    }
}

/// A struct with named fields.
fn group(input: &DeriveInput, fields: &FieldsNamed, container: &Container) -> Result<TokenStream> {
    let private = quote!(::relmgr_app::settings::__private);
    let read = together(fields.named.iter().map(|field| Field::read(field, container)))?;
    let read: Vec<_> = read.into_iter().flatten().collect();
    let removed = conf::removed(&input.attrs)?;

    let whole = match &container.default {
        Default::None => None,
        Default::Trait => Some(quote!(::core::default::Default::default())),
        Default::Path(path) => Some(quote!(#path())),
    };
    let binding = format_ident!("whole");
    let members = read.iter().map(|field| field.member(whole.as_ref().map(|_| &binding)));
    let whole = whole.as_ref().map(|whole| quote!(let #binding: Self = #whole;));
    let removed = removed.iter().map(|(key, message)| quote!((#key, #message)));
    let shape = quote! {
        #whole
        #private::Shape::Group(#private::Group {
            members: ::std::vec![#(#members),*],
            removed: ::std::vec![#(#removed),*],
        })
    };

    let values = read.iter().map(|field| {
        let (name, ident) = (&field.name, field.ident);
        let value = field.value(&quote!(&self.#ident));
        match field.serde.flatten {
            true => quote!(if let #private::Value::Record(inner) = #value { fields.extend(inner); }),
            false => quote!(fields.push((::std::string::String::from(#name), #value));),
        }
    });
    let value = quote! {
        let mut fields = ::std::vec::Vec::new();
        #(#values)*
        #private::Value::Record(fields)
    };

    // Each once more on its own: the compiler then points at the field.
    let checks = read.iter().map(|field| {
        let kind = field.kind();
        quote_spanned!(field.ty.span()=> const _: ::relmgr_app::settings::__private::Kind = #kind;)
    });
    let kinds = read.iter().map(Field::kind);
    let kind = quote!(#private::Kind::of_struct(&[#(#kinds),*]));
    let (name, setting) = (&input.ident, setting(&input.ident, &kind, &shape, &value));
    Ok(quote! {
        #(#checks)*
        #setting

        #[automatically_derived]
        impl ::relmgr_app::Settings for #name {
            fn keys() -> ::core::option::Option<#private::Shape> {
                ::core::option::Option::Some(<Self as ::relmgr_app::settings::Setting>::shape())
            }
        }
    })
}

/// A struct around one value: serde reads it as that.
fn newtype<'a>(
    input: &DeriveInput,
    fields: impl IntoIterator<Item = &'a syn::Field, IntoIter: ExactSizeIterator>,
) -> Result<TokenStream> {
    conf::removed(&input.attrs).and_then(|removed| match removed.first() {
        None => Ok(()),
        Some((key, _)) => Err(Error::new(key.span(), "one value has no keys")),
    })?;
    let mut fields = fields.into_iter();
    let (Some(field), 0) = (fields.next(), fields.len()) else {
        return Err(Error::new_spanned(
            &input.ident,
            "values without names cannot be keys: give the fields names, or make it a struct of one",
        ));
    };
    conf::refuse(&field.attrs, "put it on the fields of this type: one value has no key of its own")?;
    let ty = &field.ty;
    let inner = quote_spanned!(ty.span()=> <#ty as ::relmgr_app::settings::Setting>);
    let place = field.ident.as_ref().map_or_else(|| quote!(self.0), |ident| quote!(self.#ident));
    let value = quote!(::relmgr_app::settings::Setting::to_value(&#place));
    Ok(setting(&input.ident, &quote!(#inner::KIND), &quote!(#inner::shape()), &value))
}

/// An enum of plain words.
fn words(input: &DeriveInput, data: &DataEnum, container: &Container) -> Result<TokenStream> {
    let private = quote!(::relmgr_app::settings::__private);
    conf::refuse(&input.attrs, "an enum has no keys: put it on the fields of this type")?;
    let read = together(data.variants.iter().map(|variant| {
        if !variant.fields.is_empty() {
            return Err(Error::new_spanned(
                variant,
                "a setting is one word of several, and a word holds nothing: make the parts keys of their own",
            ));
        }
        conf::refuse(&variant.attrs, "a word has no attributes: put it on the fields of this type")?;
        Ok((variant, Item::read(&variant.attrs)?))
    }))?;
    let (mut list, mut arms) = (Vec::new(), Vec::new());
    for (variant, serde) in &read {
        let ident = &variant.ident;
        if serde.skip {
            arms.push(quote!(Self::#ident { .. } => #private::Value::Absent));
            continue;
        }
        let (name, doc) = (field::word(variant, serde, container.case), field::doc(&variant.attrs));
        let aliases = serde.aliases.iter();
        list.push(quote!(#private::Word { name: #name, doc: #doc }));
        list.extend(aliases.map(|name| quote!(#private::Word { name: #name, doc: "" })));
        arms.push(quote!(Self::#ident { .. } => #private::Value::from(#name)));
    }
    if list.is_empty() {
        return Err(Error::new_spanned(&input.ident, "it has no words: no value could be right"));
    }
    let shape = quote!(#private::Shape::Key(#private::Type::words(&[#(#list),*])));
    let value = quote!(match self { #(#arms),* });
    Ok(setting(&input.ident, &quote!(#private::Kind::PLAIN), &shape, &value))
}
