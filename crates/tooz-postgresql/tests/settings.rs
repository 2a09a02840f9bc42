//! Settings and encodings that roles and databases bring with them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::time::Duration;

use server::{Peer, Server, build, if_asked_for, schema_of, start};
use tokio::time::sleep;
use tooz_core::{ErrorKind, Result};

const SECOND: Duration = Duration::from_secs(1);

// ---- Settings.

/// Every setting that a role, a database or the server's file can give our sessions, and why it
/// changes nothing.
const SETTINGS: &[(&str, &str)] = &[
    (
        "set",
        "search_path statement_timeout lock_timeout transaction_timeout idle_session_timeout \
         idle_in_transaction_session_timeout default_transaction_isolation row_security \
         exit_on_error standard_conforming_strings synchronous_commit tcp_keepalives_count \
         tcp_keepalives_idle tcp_keepalives_interval tcp_user_timeout \
         client_connection_check_interval",
    ),
    (
        "checked at the start of each connection",
        "default_transaction_read_only transaction_read_only session_replication_role",
    ),
    ("said with the log-in", "application_name client_encoding"),
    ("of what one transaction begins with, and we begin none", "transaction_isolation"),
    (
        "of serializable transactions, and ours are none",
        "default_transaction_deferrable transaction_deferrable",
    ),
    (
        "how values are written or read as text, and ours are binary",
        "DateStyle IntervalStyle TimeZone bytea_output extra_float_digits lc_messages lc_monetary \
         lc_numeric lc_time timezone_abbreviations xmlbinary xmloption array_nulls \
         backslash_quote escape_string_warning quote_all_identifiers default_text_search_config \
         transform_null_equals icu_validation_level",
    ),
    (
        "which way to the rows is taken, not which rows",
        "constraint_exclusion cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost \
         cursor_tuple_fraction default_statistics_target effective_cache_size \
         effective_io_concurrency enable_async_append enable_bitmapscan enable_gathermerge \
         enable_hashagg enable_hashjoin enable_incremental_sort enable_indexonlyscan \
         enable_indexscan enable_material enable_memoize enable_mergejoin enable_nestloop \
         enable_parallel_append enable_parallel_hash enable_partition_pruning \
         enable_partitionwise_aggregate enable_partitionwise_join enable_seqscan enable_sort \
         enable_tidscan enable_presorted_aggregate enable_distinct_reordering \
         enable_group_by_reordering enable_self_join_elimination from_collapse_limit geqo \
         geqo_effort geqo_generations geqo_pool_size geqo_seed geqo_selection_bias geqo_threshold \
         hash_mem_multiplier jit jit_above_cost jit_dump_bitcode jit_expressions \
         jit_inline_above_cost jit_optimize_above_cost jit_tuple_deforming jit_debugging_support \
         jit_profiling_support join_collapse_limit max_parallel_workers \
         max_parallel_workers_per_gather min_parallel_index_scan_size \
         min_parallel_table_scan_size parallel_leader_participation parallel_setup_cost \
         parallel_tuple_cost plan_cache_mode random_page_cost recursive_worktable_factor \
         seq_page_cost synchronize_seqscans work_mem gin_fuzzy_search_limit \
         ignore_system_indexes",
    ),
    (
        "what asks for workers, and our functions are not run by them",
        "force_parallel_mode debug_parallel_query",
    ),
    (
        "memory, files and disks of the server, in amounts beyond ours",
        "backend_flush_after gin_pending_list_limit io_combine_limit logical_decoding_work_mem \
         maintenance_io_concurrency maintenance_work_mem max_parallel_maintenance_workers \
         max_stack_depth temp_buffers temp_file_limit wal_skip_threshold wal_compression \
         wal_consistency_checking wal_init_zero wal_recycle file_copy_method \
         vacuum_buffer_usage_limit",
    ),
    (
        "where and how new tables are stored",
        "default_table_access_method default_tablespace default_toast_compression temp_tablespaces \
         allow_in_place_tablespaces allow_system_table_mods check_function_bodies",
    ),
    (
        "vacuum, which is the server's",
        "vacuum_cost_delay vacuum_cost_limit vacuum_cost_page_dirty vacuum_cost_page_hit \
         vacuum_cost_page_miss vacuum_failsafe_age vacuum_freeze_min_age vacuum_freeze_table_age \
         vacuum_multixact_failsafe_age vacuum_multixact_freeze_min_age \
         vacuum_multixact_freeze_table_age vacuum_truncate \
         vacuum_max_eager_freeze_failure_rate",
    ),
    (
        "a fraction of a second more for a commit or for the search of a deadlock",
        "commit_delay commit_siblings deadlock_timeout",
    ),
    (
        "what is logged, counted or shown",
        "backtrace_functions client_min_messages compute_query_id debug_discard_caches \
         debug_pretty_print debug_print_parse debug_print_plan debug_print_rewritten \
         debug_print_raw_parse log_connections log_disconnections log_duration \
         log_error_verbosity log_executor_stats log_lock_waits log_lock_failures \
         log_min_duration_sample log_min_duration_statement log_min_error_statement \
         log_min_messages log_parameter_max_length log_parameter_max_length_on_error \
         log_parser_stats log_planner_stats log_replication_commands log_statement \
         log_statement_sample_rate log_statement_stats log_temp_files \
         log_transaction_sample_rate stats_fetch_consistency trace_notify trace_sort \
         track_activities track_counts track_functions track_io_timing track_wal_io_timing \
         track_cost_delay_timing update_process_title md5_password_warnings",
    ),
    (
        "of what tooz has not: functions, triggers on events, large objects, replication, passwords",
        "createrole_self_grant debug_logical_replication_streaming dynamic_library_path \
         event_triggers extension_control_path extension_destdir lo_compat_privileges \
         logical_replication_mode password_encryption restrict_nonsystem_relation_kind \
         scram_iterations wal_sender_timeout",
    ),
    (
        "for who repairs or debugs a server, and what an administrator loads into it",
        "ignore_checksum_failure zero_damaged_pages local_preload_libraries \
         session_preload_libraries post_auth_delay",
    ),
];

#[tokio::test]
async fn every_setting_that_a_session_inherits_is_accounted_for() -> Result<()> {
    if_asked_for!();
    let peer = Peer::shared().await;
    let all = "SELECT string_agg(name, ' ' ORDER BY name) FROM pg_settings \
               WHERE context IN ('user', 'superuser', 'backend', 'superuser-backend') \
               AND name NOT LIKE '%.%'";
    let known =
        |name: &&str| SETTINGS.iter().any(|(_, names)| names.split(' ').any(|n| n == *name));
    let all = peer.ask::<String>(all).await;
    let unknown: Vec<&str> = all.split(' ').filter(|name| !known(name)).collect();
    assert!(unknown.is_empty(), "what do they do to our statements? {unknown:?}");
    let source = include_str!("../src/connection.rs");
    for name in SETTINGS[0].1.split_whitespace().chain(SETTINGS[1].1.split_whitespace()) {
        let said = source.contains(&format!("'{name}'")) || source.contains(&format!("SET {name}"));
        // These two are what the one that is checked begins with and ends as.
        let meant = name == "default_transaction_read_only" || said;
        assert!(meant, "{name} is said to be set or checked");
    }
    Ok(())
}

#[tokio::test]
async fn the_settings_of_a_role_change_nothing() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    server.psql(
        "postgres",
        "CREATE ROLE hostile LOGIN; GRANT CREATE ON DATABASE postgres TO hostile",
    );
    let settings = [
        "statement_timeout = '400ms'",
        "lock_timeout = '300ms'",
        "idle_session_timeout = '400ms'",
        "idle_in_transaction_session_timeout = '300ms'",
        "transaction_timeout = '400ms'",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "search_path = 'nowhere'",
        "standard_conforming_strings = off",
        "escape_string_warning = on",
        "backslash_quote = off",
        "bytea_output = escape",
        "DateStyle = 'SQL, DMY'",
        "TimeZone = 'Asia/Kathmandu'",
        "client_encoding = LATIN1",
        "extra_float_digits = -15",
        "exit_on_error = on",
        "transform_null_equals = on",
        "quote_all_identifiers = on",
        "client_min_messages = debug5",
        "force_parallel_mode = on",
        "debug_parallel_query = on",
        "enable_indexscan = off",
        "enable_seqscan = off",
        "row_security = on",
        "synchronous_commit = off",
        "track_activities = off",
        "application_name = 'mine'",
    ]
    .map(|setting| format!("'{}'", setting.replace('\'', "''")))
    .join(", ");
    server.psql(
        "postgres",
        &format!(
            "DO $$ DECLARE one text; BEGIN FOREACH one IN ARRAY ARRAY[{settings}] LOOP \
             IF EXISTS (SELECT FROM pg_settings WHERE name = split_part(one, ' ', 1)) THEN \
             EXECUTE 'ALTER ROLE hostile SET ' || one; END IF; END LOOP; END $$"
        ),
    );
    let url = server.url("timeout=30").replace("postgres@", "hostile@");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    a.join_group_create("g", &7).await?;
    b.join_group("g", &8).await?;
    let error = b.create_group("g").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GroupAlreadyExists, "{error:?}");
    assert_eq!(b.delete_group("g").await.unwrap_err().kind(), ErrorKind::GroupNotEmpty);
    let (held, term) = (a.lock("it")?.acquire().await?, a.campaign("g").await?);
    let (lock, candidate) = (b.lock("it")?, b.clone());
    let waiting = tokio::spawn(async move { lock.acquire().await });
    let standing = tokio::spawn(async move { candidate.campaign("g").await });
    // Longer than anything that would end a wait or a silence.
    sleep(SECOND * 3 / 2).await;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tooz:%'";
    assert_eq!(server.psql("postgres", sessions), "4", "the waiters still wait");
    held.check()?;
    held.release().await?;
    term.resign().await?;
    let (guard, term) = (waiting.await.unwrap()?, standing.await.unwrap()?);
    assert_eq!(a.members_with_capabilities("g").await?.len(), 2);
    assert_eq!(a.leader("g").await?, Some("b".into()));
    guard.release().await?;
    term.resign().await?;
    a.stop().await?;
    b.stop().await?;

    // Policies would hide members; a role without foreign keys could join what is gone.
    let schema = schema_of(&url);
    let hide = format!(
        "ALTER TABLE {schema}.tooz_member ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; \
         ALTER ROLE hostile RESET track_activities"
    );
    server.psql("postgres", &hide);
    let a = start(&url, "a").await?;
    assert!(a.members("g").await.is_err(), "an error rather than a list that lacks somebody");
    a.stop().await?;
    server.psql("postgres", "ALTER ROLE hostile SET session_replication_role = replica");
    let error = build(&url, "a")?.start().await.unwrap_err();
    assert!(error.to_string().contains("session_replication_role"), "{error}");
    Ok(())
}

// ---- Encodings.

#[tokio::test]
async fn databases_of_every_encoding_serve() -> Result<()> {
    if_asked_for!();
    let server = Server::postgresql(&[], |_| {});
    for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP"] {
        let make = format!(
            "CREATE DATABASE {encoding} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        );
        server.psql("postgres", &make);
        let database = encoding.to_lowercase();
        let url = server.url("").replace("/postgres?", &format!("/{database}?"));
        let (a, b) = (start(&url, "a\u{2026}").await?, start(&url, "b").await?);
        a.join_group_create("g\u{e9}\u{6f22}", &"\u{6f22}").await?;
        b.join_group("g\u{e9}\u{6f22}", &()).await?;
        assert_eq!(b.members("g\u{e9}\u{6f22}").await?.len(), 2, "{encoding}");
        let term = a.campaign("g\u{e9}\u{6f22}").await?;
        let guard = a.lock("\u{6f22}")?.acquire().await?;
        assert!(b.lock("\u{6f22}")?.try_acquire().await?.is_none());
        assert!(b.lock("\u{6f22}")?.break_lock().await?);
        drop(guard);
        term.resign().await?;
        a.stop().await?;
        b.stop().await?;
    }
    // A name that the database cannot have.
    let url = server.url("").replace("/postgres?schema=", "/latin1?schema=%E6%BC%A2");
    let error = build(&url, "a")?.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    assert!(error.to_string().contains("encoding"), "{error}");
    Ok(())
}
