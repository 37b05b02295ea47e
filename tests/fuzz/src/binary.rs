//! Deltas and packages. A checksum keeps random changes from what lies behind it, so each layer is also a target of
//! its own, within sound ones.

use std::io::{Read, Write};
use std::sync::OnceLock;

use bzip2::read::{BzDecoder, BzEncoder};
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::scene::Scene;

/// A delta's container is applied or refused.
pub fn delta(data: &[u8]) {
    Scene::new().apply(data);
}

/// One patch inside a sound container is applied or refused.
pub fn patch(data: &[u8]) {
    let [index, _, new] = container();
    Scene::new().apply(&assemble(&[index, data, new]));
}

/// What a sound patch's streams hold is applied or refused: one byte with the number of controls, the controls, and
/// bytes for both data blocks.
pub fn controls(data: &[u8]) {
    let Some((&count, rest)) = data.split_first() else { return };
    let (control, data) = rest.split_at(rest.len().min(usize::from(count) * 24));
    // The announced size is right: another one is refused before anything else is read.
    let size = crate::scene::target_files()[crate::scene::LIBRARY].len() as i64;
    let [control, diff, extra] = [control, data, data].map(bzip2);
    let mut bytes = b"BSDIFF40".to_vec();
    for number in [control.len() as i64, diff.len() as i64, size] {
        bytes.extend(number.to_le_bytes());
    }
    patch(&[bytes, control, diff, extra].concat());
}

/// Whatever a library holds, the delta from it to itself with something new in its middle makes that.
pub fn library(data: &[u8]) {
    let mut target = data.to_vec();
    let middle = data.len() / 2;
    target.splice(middle..middle, [0x90; 64]);
    Scene::there(data, &target);
}

/// A package is unpacked or refused.
pub fn package(data: &[u8]) {
    Scene::new().unpack(data);
}

/// A tar inside a sound gzip is unpacked or refused.
pub fn archive(data: &[u8]) {
    let mut encoder = GzEncoder::new(vec![], flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    package(&encoder.finish().unwrap());
}

pub(crate) fn delta_seeds() -> Vec<Vec<u8>> {
    let sound = Scene::delta();
    assert!(Scene::new().apply(&sound));
    vec![sound]
}

pub(crate) fn patch_seeds() -> Vec<Vec<u8>> {
    let [index, patch, new] = container();
    assert!(Scene::new().apply(&assemble(&[index, patch, new])));
    vec![patch.clone()]
}

pub(crate) fn controls_seeds() -> Vec<Vec<u8>> {
    let [_, patch, _] = container();
    let length =
        |at: usize| usize::try_from(u64::from_le_bytes(patch[at..at + 8].try_into().unwrap())).unwrap();
    let (control, diff) = patch[32..].split_at(length(8));
    let [control, diff] = [control, &diff[..length(16)]].map(|packed| read_all(BzDecoder::new(packed)));
    let count = u8::try_from(control.len() / 24).unwrap();
    // Seven controls that do nothing and one that does a little, too.
    let idle = [vec![8], vec![0; 24 * 7], [5i64, 0, -5].map(i64::to_le_bytes).concat()].concat();
    vec![[vec![count], control, diff].concat(), idle]
}

/// A library's headers, a segment of code that calls across its own middle, and a table that names it.
pub(crate) fn library_seeds() -> Vec<Vec<u8>> {
    const CODE: usize = 120;
    const SIZE: usize = 2000;
    let number = |value: usize| (value as u64).to_le_bytes();
    let mut file = [&b"\x7fELF\x02\x01"[..], &[0; 10], &[3, 0, 62, 0], &[0; 12]].concat();
    file.extend([number(64), number(CODE + SIZE)].concat());
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 2, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    file.extend([CODE, 0x1000, 0, SIZE, SIZE, 0].map(number).concat());
    while file.len() + 5 <= CODE + SIZE {
        let to = (file.len() * 7919) % SIZE;
        let next = file.len() - CODE + 5;
        file.push(0xe8);
        file.extend((to as i32 - next as i32).to_le_bytes());
    }
    for (kind, flags) in [(1u32, 4u64), (4, 0)] {
        file.extend([0u32.to_le_bytes(), kind.to_le_bytes()].concat());
        file.extend([flags, 0x1000, CODE as u64, SIZE as u64].map(u64::to_le_bytes).concat());
        file.extend([0; 24]);
    }
    vec![file]
}

pub(crate) fn package_seeds() -> Vec<Vec<u8>> {
    let sound = Scene::package();
    assert!(Scene::new().unpack(&sound));
    vec![sound]
}

pub(crate) fn archive_seeds() -> Vec<Vec<u8>> {
    let sound = read_all(GzDecoder::new(&Scene::package()[..]));
    // The same with a long name before its second entry, and with a PAX header.
    let after = 512 * 2;
    let mut seeds = vec![sound.clone()];
    for (kind, content) in [(b'L', &b"priv/a-long-name\0"[..]), (b'x', b"18 path=priv/same\n13 size=9999\n")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_path("long").unwrap();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut entry = header.as_bytes().to_vec();
        entry.extend(content);
        entry.resize(1024, 0);
        let mut seed = sound.clone();
        seed.splice(after..after, entry);
        seeds.push(seed);
    }
    seeds
}

/// The entries of a sound delta: its index, the library's patch, the new file.
fn container() -> &'static [Vec<u8>; 3] {
    static ENTRIES: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        let delta = Scene::delta();
        let mut archive = tar::Archive::new(&delta[..]);
        let entries: Vec<_> = archive.entries().unwrap().map(|entry| read_all(entry.unwrap())).collect();
        entries.try_into().unwrap()
    })
}

fn assemble(entries: &[&[u8]]) -> Vec<u8> {
    let mut archive = tar::Builder::new(vec![]);
    for (at, content) in entries.iter().enumerate() {
        let name = if at == 0 { "index.toml".into() } else { (at - 1).to_string() };
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn bzip2(content: &[u8]) -> Vec<u8> {
    read_all(BzEncoder::new(content, bzip2::Compression::fast()))
}

fn read_all(mut from: impl Read) -> Vec<u8> {
    let mut content = vec![];
    from.read_to_end(&mut content).unwrap();
    content
}
