//! An object of a store that has conditional puts: Amazon S3 and those that speak as it does, Google
//! Cloud Storage, Azure, and `InMemory`; by the crate `object_store`.
//!
//! The highest token is in the object's own metadata, in a field `toozfence…` with the name of the lock
//! or the term. Why it is correct: each write reads the version and the token of the object, and is then
//! put on the condition that this very version is still there (or that there is none). So the token that
//! was compared is the one that is replaced, in one step with the contents. Who loses the race looks
//! again, and finds the other's token.
//!
//! [`update`] computes the new contents from those of that version; nothing can be written in between. An
//! object that is written without a fence, or copied without its metadata, has no token any more. Each
//! object has a token of its own: a lock that protects several protects each from the first write of its
//! later holder on, so touch each of them with [`update`] before you rely on what you read elsewhere.
//! Stores without conditional puts or metadata, as the local file system, answer with an error.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error as StoreError, GetOptions, ObjectStore, PutMode, PutOptions,
    PutResult, UpdateVersion,
};

use crate::{Error, Fence, Stale};

/// How often a put is tried that others overtake. Each time one of them has succeeded.
const ATTEMPTS: u32 = 20;

/// Replaces the object by what `change` makes of it, of `None` if there is no object. `change` is called
/// again if another write came first.
///
/// # Errors
/// [`Error::Stale`] if a later holder was there. The store's own `Precondition` or `AlreadyExists` if others
/// wrote all the time.
///
/// # Cancellation
/// The object may have been replaced or not.
///
/// ```
/// # use object_store::{memory::InMemory, path::Path};
/// # use tooz_fence::{Fence, FenceName};
/// # tooz::blocking::block_on(async {
/// # let store = InMemory::new();
/// # let fence = Fence::new(FenceName::of_lock("account-7"), 5);
/// let path = Path::from("account/7");
/// let deposit = |old: Option<&[u8]>| {
///     let balance: u64 = old.map_or(Ok(0), |old| String::from_utf8_lossy(old).parse()).unwrap_or(0);
///     (balance + 10).to_string()
/// };
/// tooz_fence::object_store::update(&store, &path, fence, deposit).await?;
/// # let stale = Fence::new(fence.name(), 4);
/// # let refused = tooz_fence::object_store::update(&store, &path, stale, deposit).await;
/// # assert!(refused.unwrap_err().is_stale());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub async fn update<C: Into<Bytes>>(
    store: &(impl ObjectStore + ?Sized),
    path: &Path,
    fence: Fence,
    mut change: impl FnMut(Option<&[u8]>) -> C,
) -> Result<PutResult, Error<StoreError>> {
    let field = Attribute::Metadata(format!("toozfence{}", fence.name()).into());
    let mut attempts = 0;
    loop {
        let (contents, mode, mut attributes) =
            match store.get_opts(path, GetOptions::default()).await {
                Ok(found) => {
                    let (version, attributes) = (version(&found.meta), found.attributes.clone());
                    (Some(found.bytes().await?), PutMode::Update(version), attributes)
                }
                Err(StoreError::NotFound { .. }) => (None, PutMode::Create, Attributes::new()),
                Err(error) => return Err(error.into()),
            };
        // A text that is no number was put there by somebody else, and is below every token.
        let highest = attributes.get(&field).and_then(|token| token.parse().ok()).unwrap_or(0);
        Stale::check(fence, highest).map_err(Error::Stale)?;
        attributes.insert(field.clone(), fence.token().to_string().into());
        let payload: Bytes = change(contents.as_deref()).into();
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        attempts += 1;
        match store.put_opts(path, payload.into(), options).await {
            Err(StoreError::Precondition { .. } | StoreError::AlreadyExists { .. })
                if attempts < ATTEMPTS => {}
            put => return Ok(put?),
        }
    }
}

fn version(meta: &object_store::ObjectMeta) -> UpdateVersion {
    UpdateVersion { e_tag: meta.e_tag.clone(), version: meta.version.clone() }
}
