//! Redis, Valkey and clusters of them: a command that one script checks and runs.
//!
//! [`SCRIPT`] compares the token with the highest one, keeps it, and runs the command. Why it is correct:
//! a script runs alone. Whatever was written with a lower token was written before the higher one was
//! kept, and a lower one that comes afterwards is refused. There is no time between check and write.
//!
//! - **Keys.** The highest token is in `tooz-fence:{TAG}:NAME`, without an expiry. `TAG` is yours: on a
//!   cluster it is the hash tag of the keys that are written, so that all are in one slot (`account` for
//!   `{account}:7`); elsewhere it may be empty. All who write under one lock use the same one. Where a
//!   lock protects keys of several slots, each tag has a highest token of its own: [`raise`] each of them
//!   before you read.
//! - **Numbers.** Lua's are doubles, exact up to 2⁵³ only. Tokens are compared as texts of 20 digits.
//! - **A command that fails** changes nothing, but the token was kept, as [`raise`] would have.
//! - **Persistence and replication.** A master that is replaced by a replica, or restarted from an old
//!   file, forgets the last writes, and so may forget a token: until the holder writes again, an earlier
//!   one is not refused. `WAIT`, `appendfsync always` and `min-replicas-to-write` make it unlikely; only a
//!   store that commits to a majority, or to its disk, excludes it.
//! - **Eviction.** A policy of `allkeys-…` may evict the token: use `noeviction` or `volatile-…`.

/// Shows a fence, and runs a command.
///
/// `KEYS[1]` is that of the fence, `tooz-fence:{TAG}:NAME`; those of the command follow. `ARGV[1]` is the
/// token, in 20 digits with zeros in front; the command and its arguments follow, at most some 7,000, or
/// none. It returns the highest token, and behind it the command's answer: if that token is another than
/// `ARGV[1]`, the fence is stale, and nothing was done.
pub const SCRIPT: &str = "\
local highest = redis.call('GET', KEYS[1])
if highest and highest > ARGV[1] then return {highest} end
if highest ~= ARGV[1] then redis.call('SET', KEYS[1], ARGV[1]) end
if #ARGV == 1 then return {ARGV[1]} end
return {ARGV[1], redis.call(unpack(ARGV, 2))}";

#[cfg(feature = "redis")]
pub use client::{key, raise, write};

#[cfg(feature = "redis")]
mod client {
    use std::sync::LazyLock;

    use redis::aio::ConnectionLike;
    use redis::{Arg, Cmd, FromRedisValue, RedisError, Script, ToRedisArgs, Value};

    use super::SCRIPT;
    use crate::{Error, Fence, FenceName, Stale};

    /// Where the highest token of a lock or a term is kept.
    pub fn key(name: FenceName, tag: &str) -> String {
        format!("tooz-fence:{{{tag}}}:{name}")
    }

    /// Shows the fence to the server. After an acquisition, do so before anything is read: see
    /// [the rule](crate#the-rule).
    ///
    /// # Errors
    /// [`Error::Stale`] if a later holder was there.
    ///
    /// # Cancellation
    /// The server may have been shown it or not. Either does no harm.
    pub async fn raise(
        connection: &mut impl ConnectionLike,
        fence: Fence,
        tag: &str,
    ) -> Result<(), Error<RedisError>> {
        run(connection, fence, tag, &[] as &[&str], None).await.map(drop)
    }

    /// Runs a command that writes, unless the fence is stale. `keys` are the keys that it names, which a
    /// cluster must know: all of them with the hash tag `tag`.
    ///
    /// # Errors
    /// [`Error::Stale`] if a later holder was there: nothing was done.
    ///
    /// # Cancellation
    /// The command may have run or not.
    ///
    /// ```no_run
    /// # async fn deposit(mut connection: redis::aio::MultiplexedConnection, fence: tooz_fence::Fence)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let key = "{account}:7";
    /// tooz_fence::redis::raise(&mut connection, fence, "account").await?;
    /// let balance: i64 = redis::cmd("GET").arg(key).query_async(&mut connection).await?;
    /// let set = redis::Cmd::set(key, balance + 10);
    /// let () = tooz_fence::redis::write(&mut connection, fence, "account", &[key], &set).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write<T: FromRedisValue>(
        connection: &mut impl ConnectionLike,
        fence: Fence,
        tag: &str,
        keys: &[impl ToRedisArgs],
        command: &Cmd,
    ) -> Result<T, Error<RedisError>> {
        let answer = run(connection, fence, tag, keys, Some(command)).await?;
        Ok(T::from_redis_value(answer).map_err(RedisError::from)?)
    }

    async fn run(
        connection: &mut impl ConnectionLike,
        fence: Fence,
        tag: &str,
        keys: &[impl ToRedisArgs],
        command: Option<&Cmd>,
    ) -> Result<Value, Error<RedisError>> {
        static COMPILED: LazyLock<Script> = LazyLock::new(|| Script::new(SCRIPT));
        let mut call = COMPILED.key(key(fence.name(), tag));
        for key in keys {
            call.key(key);
        }
        call.arg(format!("{:020}", fence.token()));
        for argument in command.iter().flat_map(|command| command.args_iter()) {
            match argument {
                Arg::Simple(bytes) => call.arg(bytes),
                // The place of a cursor, which only an iteration fills.
                _ => call.arg(0),
            };
        }
        let answer: Vec<Value> = call.invoke_async(connection).await?;
        let mut answer = answer.into_iter();
        let highest: u64 = match answer.next() {
            Some(highest) => {
                let digits = String::from_redis_value(highest).map_err(RedisError::from)?;
                // A text that is no number was put there by somebody else, and is below every token.
                digits.parse().unwrap_or(0)
            }
            None => 0,
        };
        Stale::check(fence, highest).map_err(Error::Stale)?;
        Ok(answer.next().unwrap_or(Value::Nil))
    }
}
