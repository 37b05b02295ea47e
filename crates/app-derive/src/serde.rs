//! serde's attributes, as far as they decide on keys. That they are well formed is serde's own to say.

use syn::meta::ParseNestedMeta;
use syn::{Attribute, Error, ExprPath, Lit, LitStr, Result, Token};

use crate::case::Case;

/// Where a value comes from that nobody set.
#[derive(Clone, Default)]
pub(crate) enum Default {
    /// Somebody has to set it.
    #[default]
    None,
    /// The type's `Default`.
    Trait,
    /// This function.
    Path(ExprPath),
}

/// Of a struct or an enum.
pub(crate) struct Container {
    pub(crate) case: Case,
    pub(crate) default: Default,
    pub(crate) transparent: bool,
}

/// Of a field or a variant.
#[derive(Default)]
pub(crate) struct Item {
    pub(crate) rename: Option<String>,
    pub(crate) aliases: Vec<String>,
    pub(crate) skip: bool,
    pub(crate) flatten: bool,
    pub(crate) default: Default,
    /// A function of the author's reads it.
    pub(crate) with: bool,
}

/// Calls `each` for what stands in `#[serde(…)]`; what it does not read is left out.
fn read(
    attributes: &[Attribute],
    mut each: impl FnMut(&str, &ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| {
            let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            each(&name, &meta)?;
            // What is left of it: serde says what is wrong with it.
            if meta.input.peek(Token![=]) {
                meta.value()?.parse::<Lit>()?;
            } else if meta.input.peek(syn::token::Paren) {
                let inner;
                syn::parenthesized!(inner in meta.input);
                inner.parse::<proc_macro2::TokenStream>()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// `name = "…"`, or what `name(deserialize = "…")` says.
fn text(meta: &ParseNestedMeta<'_>) -> Result<Option<LitStr>> {
    if !meta.input.peek(syn::token::Paren) {
        return meta.value()?.parse().map(Some);
    }
    let mut found = None;
    meta.parse_nested_meta(|inner| {
        let text: LitStr = inner.value()?.parse()?;
        if inner.path.is_ident("deserialize") {
            found = Some(text);
        }
        Ok(())
    })?;
    Ok(found)
}

fn default(meta: &ParseNestedMeta<'_>) -> Result<Default> {
    if meta.input.peek(Token![=]) {
        return meta.value()?.parse::<LitStr>()?.parse().map(Default::Path);
    }
    Ok(Default::Trait)
}

impl Container {
    /// Reads those of a struct or an enum.
    ///
    /// # Errors
    /// Those with which serde would read something else than keys or words.
    pub(crate) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut read_so_far = Self { case: Case::Same, default: Default::None, transparent: false };
        read(attributes, |name, meta| {
            let refused = |why: &str| Err(Error::new_spanned(&meta.path, format!("serde's `{name}` {why}")));
            match name {
                "rename_all" => {
                    let case = text(meta)?.and_then(|text| Case::parse(&text.value()));
                    read_so_far.case = case.unwrap_or(read_so_far.case);
                }
                "default" => read_so_far.default = default(meta)?,
                "transparent" => read_so_far.transparent = true,
                "tag" | "content" | "untagged" => {
                    return refused("has no place in settings: an enum is one of several plain words");
                }
                "from" | "try_from" => {
                    return refused(
                        "reads another type: derive Settings for that one, or do without it here and put \
                         #[conf(type = \"string\")] on the fields of this type",
                    );
                }
                "remote" => return refused("describes another type: derive Settings for one of your own"),
                _ => {}
            }
            Ok(())
        })?;
        Ok(read_so_far)
    }
}

impl Item {
    /// Reads those of a field or a variant.
    ///
    /// # Errors
    /// Those with which serde would read something that no schema names.
    pub(crate) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut item = Self::default();
        read(attributes, |name, meta| {
            match name {
                "rename" => item.rename = text(meta)?.map(|text| text.value()).or(item.rename.take()),
                "alias" => item.aliases.push(meta.value()?.parse::<LitStr>()?.value()),
                "skip" | "skip_deserializing" => item.skip = true,
                "flatten" => item.flatten = true,
                "default" => item.default = default(meta)?,
                "with" | "deserialize_with" => {
                    meta.value()?.parse::<LitStr>()?;
                    item.with = true;
                }
                "other" => {
                    let why = "serde's `other` takes any word, but a schema names every one";
                    return Err(Error::new_spanned(&meta.path, why));
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(item)
    }
}
