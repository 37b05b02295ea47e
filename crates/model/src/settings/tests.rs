use super::*;

#[test]
fn the_least_file_gives_the_defaults() {
    let settings =
        Settings::parse("app = \"live-poll\"\n[repository]\nurl = \"file:///srv/packages\"\n").unwrap();
    assert_eq!(settings.upgrade, Upgrade::default());
    assert_eq!(settings.http.version_path, "/api/public/version");
    assert_eq!(settings.loader, Loader { unload: Unload::Proven, max_unretired: 8 });
}

#[test]
fn faults_name_their_key() {
    let cases = [
        ("app = \"a\"\n", "repository"),
        ("app = \"a\"\nnovelty = 1\n[repository]\nurl = \"file:///x\"\n", "novelty"),
        ("app = \"a\"\n[repository]\nurl = \"ftp://x\"\n", "repository.url"),
        ("app = \"a\"\n[repository]\nurl = \"file:///x\"\n[listen]\nhttp = []\n", "listen.http"),
        (
            "app = \"a\"\n[repository]\nurl = \"file:///x\"\n[listen]\nhttps = [\"127.0.0.1:443\"]\n",
            "listen.https: has no certificate",
        ),
        (
            "app = \"a\"\n[repository]\nurl = \"file:///x\"\n[[tls]]\ncertificate = \"c\"\nkey = \"k\"\n",
            "tls: has no address",
        ),
        ("app = \"a\"\n[repository]\nurl = \"file:///x\"\n[upgrade]\ndrain = 5\n", "drain"),
        ("app = \"a\"\n[repository]\nurl = \"file:///x\"\n[pull]\ninterval = \"10ms\"\n", "pull.interval"),
        ("app = \"a\"\n[repository]\nurl = \"file:///x\"\n[[webhooks]]\nurl = \"ftp://x\"\n", "webhooks.url"),
        (
            "app = \"a\"\n[repository]\nurl = \"file:///x\"\n[[webhooks]]\nurl = \"https://x\"\nsecret = \"s3\"\n",
            "webhooks.secret",
        ),
        ("app = \"a\"\n[repository]\nurl = \"file:///x\"\n[pull]\nwave = 100\n", "pull.wave"),
        ("app = \"a\"\n[repository]\nurl = \"file:///x\"\n[pull]\nwindows = [\"noon\"]\n", "is no window"),
        ("app = \"a\"\n[repository]\nurl = \"file:///x\"\n[http.limits]\nheader_bytes = 1\n", "header_bytes"),
    ];
    for (text, words) in cases {
        let error = Settings::parse(text).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}
