use super::*;
use std::collections::BTreeMap;
use std::sync::Mutex;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
struct Plain(Mutex<Map>);

struct PlainTransaction(Map);

impl Transaction for PlainTransaction {
    fn get(&self, _table: u32, key: &[u8]) -> Result<Option<&[u8]>, TableFault> {
        Ok(self.0.get(key).map(Vec::as_slice))
    }

    fn put(&mut self, _table: u32, key: &[u8], value: &[u8]) -> Result<(), TableFault> {
        if key.is_empty() {
            return Err(TableFault::new(kind::KEY, "an empty key"));
        }
        self.0.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, _table: u32, key: &[u8]) -> Result<bool, TableFault> {
        Ok(self.0.remove(key).is_some())
    }

    fn scan(&self, span: &Span<'_>, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableFault> {
        let mut after = self.0.range(span.from.to_vec()..);
        let _ = after.try_for_each(|(key, value)| each(key, value).then_some(()));
        Ok(())
    }

    fn len(&self, _table: u32) -> Result<u64, TableFault> {
        Ok(self.0.len() as u64)
    }
}

impl TableStore for Plain {
    fn open(&self, spec: &TableSpec<'_>) -> Result<u32, TableFault> {
        Ok(spec.schema)
    }

    fn read(&self, work: &mut dyn FnMut(&mut dyn Transaction)) -> Result<(), TableFault> {
        work(&mut PlainTransaction(self.0.lock().unwrap().clone()));
        Ok(())
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn Transaction) -> bool) -> Result<(), TableFault> {
        let mut map = self.0.lock().unwrap();
        let mut transaction = PlainTransaction(map.clone());
        if work(&mut transaction) {
            *map = transaction.0;
        }
        Ok(())
    }

    fn needed(&self, table: u32) -> Needed {
        Needed { lowest: table, users: 1 }
    }

    fn report(&self, _table: u32, _report: &[u8]) {}

    fn changes(&self, _table: u32, seen: u64) -> FfiFuture<RVec<u8>> {
        FfiFuture::new(async move {
            RVec::from(Changes { seen, lost: true, keys: vec![b"k".to_vec()] }.to_bytes())
        })
    }

    fn close(&self) {}
}

fn span(from: &[u8]) -> Span<'_> {
    Span { table: 0, from: from.into(), to: ROption::RNone, reverse: false }
}

#[test]
fn what_is_written_is_read_across_the_border() {
    let store = FfiStore::new(Plain::default());
    let put = store.write(|transaction| {
        transaction.put(0, b"a", b"1").unwrap();
        transaction.put(0, b"b", b"2").unwrap();
        assert_eq!(transaction.get(0, b"a").unwrap(), Some(&b"1"[..]));
        assert!(transaction.delete(0, b"b").unwrap() && !transaction.delete(0, b"b").unwrap());
        (true, transaction.put(0, b"", b"").unwrap_err().kind)
    });
    assert_eq!(put.unwrap(), kind::KEY);
    let kept = store.write(|transaction| (false, transaction.put(0, b"c", b"3"))).unwrap();
    assert_eq!(kept, Ok(()), "and is given up");
    let mut seen = vec![];
    store
        .read(|transaction| {
            let each = |key: &[u8], value: &[u8]| {
                seen.push((key.to_vec(), value.to_vec()));
                true
            };
            transaction.scan(span(b""), each).unwrap();
            assert_eq!(transaction.count(0).unwrap(), 1);
        })
        .unwrap();
    assert_eq!(seen, [(b"a".to_vec(), b"1".to_vec())]);
    assert_eq!(store.needed(7), Needed { lowest: 7, users: 1 });
}

#[test]
fn a_panic_gives_the_transaction_up_and_goes_on_on_its_own_side() {
    let store = FfiStore::new(Plain::default());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        store.write::<()>(|transaction| {
            transaction.put(0, b"a", b"1").unwrap();
            panic!("on purpose")
        })
    }));
    assert_eq!(crate::future::panic_message(panicked.unwrap_err()), "on purpose");
    store.write(|transaction| (true, transaction.put(0, b"b", b"2").unwrap())).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        store.read(|transaction| transaction.scan(span(b""), |_, _| panic!("in a scan")))
    }));
    assert_eq!(crate::future::panic_message(panicked.unwrap_err()), "in a scan");
    assert_eq!(store.read(|transaction| transaction.count(0).unwrap()).unwrap(), 1);
}

#[test]
fn changes_cross_as_bytes() {
    let changes = Changes { seen: 7, lost: false, keys: vec![vec![], vec![1, 2, 3]] };
    assert_eq!(Changes::from_bytes(&changes.to_bytes()), changes);
    let bytes = changes.to_bytes();
    for cut in 0..bytes.len() {
        assert!(Changes::from_bytes(&bytes[..cut]).keys.len() < 2, "{cut}");
    }
}
