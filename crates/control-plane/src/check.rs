//! Whether a state can be used: what the store cannot tell, as it does not know what is in its records. Changes
//! nothing.

use crate::audit::{Audit, Entropy};
use crate::profile::ProfileRecord;
use crate::record::Records;
use crate::store::{Store, StoreError};
use crate::vm::VmRecord;
use proteus_model::execution::{Morph, Version};
use proteus_model::id::VmId;
use proteus_protocol::cause::chain;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Most damaged records of one kind that are named.
const NAMED_MAX: usize = 10;

/// What is wrong with the records and the audit log; empty: nothing.
pub async fn problems(store: Arc<dyn Store>, entropy: Entropy) -> Result<Vec<String>, StoreError> {
    let records = Records::new(store.clone(), entropy.clone());
    let mut found = Vec::new();
    unreadable::<VmRecord>(&records, "vm/", &mut found).await?;
    unreadable::<VmId>(&records, "vm-name/", &mut found).await?;
    unreadable::<Morph>(&records, "morph/", &mut found).await?;
    unreadable::<Version>(&records, "version/", &mut found).await?;
    unreadable::<ProfileRecord>(&records, "profile/", &mut found).await?;
    crate::personality::unreadable(&records, &mut found).await?;
    if let Err(error) = Audit::new(store, entropy).verify(None).await {
        found.push(format!("the audit log: {}", chain(&error)));
    }
    Ok(found)
}

pub(crate) async fn unreadable<T: DeserializeOwned>(
    records: &Records,
    prefix: &str,
    found: &mut Vec<String>,
) -> Result<(), StoreError> {
    let damaged = records.damaged::<T>(prefix).await?;
    found.extend(damaged.iter().take(NAMED_MAX).map(|error| chain(error)));
    if damaged.len() > NAMED_MAX {
        found.push(format!("{} more records under {prefix} are damaged", damaged.len() - NAMED_MAX));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::AuditRecord;
    use crate::store::embedded::Embedded;
    use crate::store::{Commit, Key, Outcome};
    use proteus_model::id::OpId;
    use proteus_model::unit::UnixMillis;

    fn entropy() -> Entropy {
        let next = std::sync::atomic::AtomicU64::new(1);
        Arc::new(move || u128::from(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)))
    }

    #[tokio::test]
    async fn a_damaged_record_and_a_broken_chain_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path(), None).unwrap());
        let audit = Audit::new(store.clone(), entropy());
        for action in ["one", "two"] {
            audit
                .append(AuditRecord::new(UnixMillis(1), "root", action, "vm/web", "asked for"))
                .await
                .unwrap();
        }
        assert_eq!(problems(store.clone(), entropy()).await.unwrap(), Vec::<String>::new());
        let put = |key: &str, bytes: &[u8], number: u128| {
            Commit::new(OpId::from_bits(number << 64)).put(Key::new(key).unwrap(), bytes.to_vec())
        };
        let outcome = store.commit(put("vm/garbage", b"{garbage", 7)).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)));
        let found = problems(store.clone(), entropy()).await.unwrap();
        assert!(found.len() == 1 && found[0].contains("vm/garbage"), "{found:?}");
        let page = store.list("audit/", None, 1).await.unwrap();
        let (key, value) = (page.records[0].key.as_str().to_owned(), page.records[0].value.clone());
        let meddled = String::from_utf8(value).unwrap().replace("\"root\"", "\"toor\"");
        let outcome = store.commit(put(&key, meddled.as_bytes(), 8)).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)));
        let found = problems(store, entropy()).await.unwrap();
        assert!(found.len() == 2 && found[1].starts_with("the audit log: "), "{found:?}");
    }
}
