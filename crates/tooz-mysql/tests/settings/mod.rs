//! What each session variable of MySQL 9 and MariaDB 10.11 may do to the driver's statements.

/// Whether a variable is set by the driver, checked by it, or harmless; and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Set,
    Checked,
    Harmless,
}

use Verdict::{Checked, Harmless, Set};

/// The variables, and the reason that those of a row share.
pub(crate) const VARIABLES: &[(Verdict, &str, &str)] = &[
    (
        Set,
        "by the connection's first statements",
        "autocommit character_set_client character_set_connection character_set_results \
         collation_connection completion_type foreign_key_checks \
         idle_readonly_transaction_timeout idle_transaction_timeout \
         idle_write_transaction_timeout innodb_lock_wait_timeout lock_wait_timeout \
         max_execution_time max_join_size max_sort_length max_statement_time net_read_timeout \
         net_write_timeout sql_auto_is_null sql_big_selects sql_mode sql_safe_updates \
         sql_select_limit time_zone transaction_isolation transaction_read_only tx_isolation \
         tx_read_only unique_checks wait_timeout",
    ),
    (Checked, "read at connect: a longer request is not sent", "max_allowed_packet"),
    (
        Checked,
        "each connection is asked whether it is the one that holds its marker",
        "pseudo_thread_id",
    ),
    (Checked, "a Galera node is refused, unless it is the only one that is written to", "wsrep_on"),
    (
        Checked,
        "its error is a conflict, and the transaction is repeated",
        "innodb_snapshot_isolation",
    ),
    (
        Harmless,
        "a refusal, which is told as an error",
        "connection_memory_limit default_table_encryption enforce_storage_engine \
         max_session_mem_used max_user_connections parser_max_mem_size require_row_format \
         sql_require_primary_key",
    ),
    (
        Harmless,
        "ours are no such tables, columns or names: InnoDB, with a key, named in full, of bytes",
        "aria_repair_threads aria_sort_buffer_size aria_stats_method auto_increment_increment \
         auto_increment_offset bulk_insert_buffer_size character_set_database \
         character_set_filesystem character_set_server collation_database collation_server \
         column_compression_threshold column_compression_zlib_level \
         column_compression_zlib_strategy column_compression_zlib_wrap deadlock_search_depth_long \
         deadlock_search_depth_short deadlock_timeout_long deadlock_timeout_short \
         default_collation_for_utf8mb4 default_storage_engine default_tmp_storage_engine \
         enable_cascade_triggers explicit_defaults_for_timestamp \
         external_table_secondary_storage_engine external_table_storage_engine \
         innodb_compression_default innodb_default_encryption_key_id innodb_ft_enable_stopword \
         innodb_ft_user_stopword_table innodb_strict_mode innodb_table_locks keep_files_on_create \
         low_priority_updates max_delayed_threads max_insert_delayed_threads \
         myisam_repair_threads myisam_sort_buffer_size myisam_stats_method preload_buffer_size \
         restrict_fk_on_non_standard_key sql_generate_invisible_primary_key storage_engine \
         system_versioning_alter_history system_versioning_asof system_versioning_insert_history \
         transaction_allow_batching",
    ),
    (
        Harmless,
        "no statement of ours uses what it changes",
        "alter_algorithm binlog_alter_two_phase block_encryption_mode check_constraint_checks \
         cte_max_recursion_depth default_master_connection default_regex_flags \
         default_week_format div_precision_increment end_markers_in_json explain_format \
         explain_json_format_version generated_random_password_length group_concat_max_len \
         information_schema_stats_expiry innodb_ddl_buffer_size innodb_ddl_threads \
         innodb_parallel_read_threads innodb_tmpdir lc_time_names max_points_in_geometry \
         max_recursive_iterations max_sp_recursion_depth old old_alter_table old_mode \
         old_passwords print_identified_with_as_hex select_into_buffer_size select_into_disk_sync \
         select_into_disk_sync_delay show_create_table_skip_secondary_engine \
         show_create_table_verbosity show_gipk_in_create_table_and_information_schema \
         sql_if_exists sql_quote_show_create standard_compliant_cte terminology_use_previous \
         updatable_views_with_limit windowing_use_high_precision xa_detach_on_prepare",
    ),
    (
        Harmless,
        "how a statement is run, not what it means: ours read few rows by keys",
        "analyze_max_length analyze_sample_percentage big_tables connection_memory_chunk_size \
         enable_secondary_engine_statistics eq_range_index_dive_limit expensive_subquery_limit \
         global_connection_memory_tracking histogram_generation_max_mem_size histogram_size \
         histogram_type in_predicate_conversion_threshold internal_tmp_mem_storage_engine \
         join_buffer_size join_buffer_space_limit join_cache_level max_heap_table_size \
         max_length_for_sort_data max_rowid_filter_size max_seeks_for_key max_tmp_tables \
         mrr_buffer_size net_buffer_length net_retry_count optimizer_adjust_secondary_key_costs \
         optimizer_extra_pruning_depth optimizer_join_limit_pref_ratio \
         optimizer_max_sel_arg_weight optimizer_max_sel_args optimizer_max_subgraph_pairs \
         optimizer_prune_level optimizer_search_depth optimizer_selectivity_sampling_limit \
         optimizer_switch optimizer_use_condition_selectivity query_alloc_block_size \
         query_cache_strip_comments query_cache_type query_cache_wlock_invalidate \
         query_prealloc_size range_alloc_block_size range_optimizer_max_mem_size read_buffer_size \
         read_rnd_buffer_size rowid_merge_buff_size secondary_engine_cost_threshold \
         set_operations_buffer_size sort_buffer_size sql_buffer_result tcp_nodelay \
         thread_pool_priority tmp_disk_table_size tmp_memory_table_size tmp_table_size \
         transaction_alloc_block_size transaction_prealloc_size use_secondary_engine \
         use_stat_tables",
    ),
    (
        Harmless,
        "what is logged, counted, traced or noted of a statement, or who is told",
        "error_count lc_messages log_disabled_statements log_queries_not_using_indexes \
         log_slow_admin_statements log_slow_disabled_statements log_slow_filter \
         log_slow_max_warnings log_slow_min_examined_row_limit log_slow_query log_slow_query_time \
         log_slow_rate_limit log_slow_slave_statements log_slow_verbosity log_warnings \
         long_query_time max_error_count min_examined_row_limit note_verbosity optimizer_trace \
         optimizer_trace_features optimizer_trace_limit optimizer_trace_max_mem_size \
         optimizer_trace_offset profiling profiling_history_size progress_report_time \
         resultset_metadata session_track_gtids session_track_schema session_track_state_change \
         session_track_system_variables session_track_transaction_info slow_query_log sql_log_off \
         sql_notes sql_warnings statement_id warning_count",
    ),
    (
        Harmless,
        "how changes go to replicas, which grant nothing",
        "binlog_annotate_row_events binlog_direct_non_transactional_updates binlog_format \
         binlog_row_image binlog_row_value_options binlog_rows_query_log_events \
         binlog_transaction_compression binlog_transaction_compression_level_zstd \
         group_replication_consistency gtid_domain_id gtid_next gtid_owned gtid_seq_no \
         immediate_server_version last_gtid max_relay_log_size original_commit_timestamp \
         original_server_version pseudo_replica_mode pseudo_slave_mode rbr_exec_mode server_id \
         skip_parallel_replication skip_replication sql_log_bin sql_slave_skip_counter \
         wsrep_causal_reads wsrep_dirty_reads wsrep_gtid_seq_no wsrep_osu_method \
         wsrep_retry_autocommit wsrep_sync_wait wsrep_trx_fragment_size wsrep_trx_fragment_unit",
    ),
    (
        Harmless,
        "a session's own state, which no default changes",
        "external_user identity in_transaction insert_id last_insert_id proxy_user rand_seed1 \
         rand_seed2 timestamp",
    ),
    (
        Harmless,
        "for clients of a terminal; it gives wait_timeout its first value, and that is set",
        "interactive_timeout",
    ),
];

/// The verdict on a variable.
pub(crate) fn verdict(name: &str) -> Option<Verdict> {
    let row = VARIABLES.iter().find(|(_, _, names)| names.split(' ').any(|known| known == name));
    row.map(|(verdict, _, _)| *verdict)
}
