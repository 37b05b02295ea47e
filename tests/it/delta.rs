//! Deltas between libraries that rustc has really made.

use std::path::{Path, PathBuf};

use relmgr_model::home::Home;
use relmgr_model::manifest::Manifest;
use relmgr_store::{delta, package, tree::ReleaseTree};
use relmgr_testkit::kit::{self, Release};

fn packed(release: &Release) -> PathBuf {
    release.out.join(format!("{}.tar.gz", release.version))
}

fn unpacked(release: &Release, root: &Path) -> (PathBuf, Manifest) {
    let directory = root.join(&release.version);
    let manifest = package::read_manifest(&packed(release)).unwrap();
    package::unpack(&packed(release), root, &directory, &manifest).unwrap();
    (directory, manifest)
}

#[test]
fn a_release_is_made_from_the_one_before_and_a_small_delta_whichever_way() {
    let older = kit::release("faulty", "", "1.0.0");
    let newer = kit::release("faulty", "second", "1.0.1");
    let root = tempfile::tempdir().unwrap();
    for (from, to) in [(&older, &newer), (&newer, &older)] {
        let home = tempfile::tempdir().unwrap();
        let work = tempfile::tempdir_in(root.path()).unwrap();
        let (base_dir, base) = unpacked(from, work.path());
        let (target_dir, mut target) = unpacked(to, work.path());
        let file = work.path().join("delta");
        let made = delta::make(&base_dir, &base, &target_dir, &target, &file).unwrap();
        let whole = packed(to).metadata().unwrap().len();
        assert!(made.size < whole / 10, "{} of {whole} bytes", made.size);
        target.deltas.insert(base.version.clone(), made);

        let home = Home::new(home.path().to_owned());
        let tree = ReleaseTree::new(home.clone());
        tree.prepare().unwrap();
        tree.install(&base.version, &packed(from), &base).unwrap();
        tree.install_delta(&target.version, &base.version, &file, &target).unwrap();
        tree.verify(&target.version).unwrap();
        let library = |directory: &Path| std::fs::read(directory.join(&target.library)).unwrap();
        assert_eq!(library(&home.release(&target.version)), library(&target_dir));
    }
}
