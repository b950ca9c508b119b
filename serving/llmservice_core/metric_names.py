"""Every metric name and label of ours, once. No values, no registry.

Label LLMSERVICE carries `<namespace>/<name>`: unique in a cluster, and never in collision with the target labels
`namespace`, `service`, `pod` that a scrape adds. Counters are named here as exposed, with `_total`.
"""

from typing import Final

LLMSERVICE: Final = "llmservice"
POOL: Final = "pool"
CLASS: Final = "class"

# Attainment. TTFT events come from routers, TBT events (one per token gap) from engines. `target` in seconds is part of
# the identity, so that old and new targets never mix.
SLO_EVENTS: Final = "llmservice_slo_events_total"
SLO_GOOD: Final = "llmservice_slo_good_total"
SLO_LABELS: Final = (CLASS, "slo", "target")
SLO_TTFT: Final = "ttft"
SLO_TBT: Final = "tbt"

# Router
ARRIVALS: Final = "llmservice_router_arrivals_total"  # class; shed and refused ones are demand; class "" at the door
REQUESTS: Final = "llmservice_router_requests_total"  # class, code, outcome: ok, failed, shed, refused, client_gone
PROMPT_TOKENS: Final = "llmservice_router_prompt_tokens_total"  # class; counted when the prefill ends
PROMPTS: Final = "llmservice_router_prompts_total"  # class; requests behind PROMPT_TOKENS
CACHED_TOKENS: Final = "llmservice_router_cached_tokens_total"  # class; part of PROMPT_TOKENS
OUTPUT_TOKENS: Final = "llmservice_router_output_tokens_total"  # class; counted when the answer ends
ANSWERS: Final = "llmservice_router_answers_total"  # class; requests behind OUTPUT_TOKENS
IN_FLIGHT: Final = "llmservice_router_in_flight"  # class, phase
PHASES: Final = ("queued", "prefill", "decode")
WAITING_PROMPT_TOKENS: Final = "llmservice_router_waiting_prompt_tokens"  # predicted tokens queued or in prefill
TTFT_SECONDS: Final = "llmservice_router_ttft_seconds"  # class; histogram, for plots only
CHUNK_GAP_SECONDS: Final = "llmservice_router_chunk_gap_seconds"  # class; a chunk is not a token
TTFT_PART_SECONDS: Final = "llmservice_router_ttft_part_seconds"  # class, part; summary
TTFT_PARTS: Final = ("queue", "prefill", "first_decode")
RETRIES: Final = "llmservice_router_retries_total"  # phase, reason
RESUMES: Final = "llmservice_router_resumes_total"  # outcome: resumed, or why not
FIRST_RESUMES: Final = ("resumed", "within a chunk", "diverged")
SHED: Final = "llmservice_router_shed_total"  # class, reason
FIRST_SHED_REASONS: Final = ("NoEndpoint", "late", "queue_full")
QUEUE_TOKENS: Final = "llmservice_router_queue_tokens"  # class; predicted prompt tokens that wait in the router
TTFT_PREDICTION_ERROR: Final = "llmservice_router_ttft_prediction_error_seconds"  # class, direction; histogram
DIRECTION: Final = "direction"
DIRECTIONS: Final = ("sooner", "later")  # than predicted on arrival
ENDPOINTS: Final = "llmservice_router_endpoints"  # pool, state
DENIED: Final = "llmservice_router_denied_total"  # tenant ("" while unknown), reason
TENANT: Final = "tenant"
DENY_REASONS: Final = ("no_key", "unknown_key", "keys_unreadable", "body_too_large", "slow_client", "bad_head")
TENANT_DENY_REASONS: Final = ("class", "rate", "too_large_for_rate")
TENANT_TOKENS: Final = "llmservice_router_tenant_tokens_total"  # tenant; prompt and output tokens used
ACCESS: Final = "llmservice_router_access"  # state: 1 for the one that holds
ACCESS_STATES: Final = ("open", "keys", "stale", "closed")

# Engine exporter
STEPS: Final = "llmservice_engine_steps_total"  # kind
STEP_SECONDS: Final = "llmservice_engine_step_seconds_total"  # kind
STEP_XX: Final = "llmservice_engine_step_xx_total"  # kind, i, j with FEATURES[i] <= FEATURES[j] by position
STEP_XY: Final = "llmservice_engine_step_xy_total"  # kind, i; y in seconds
STEP_BIN_COUNT: Final = "llmservice_engine_step_bin_count_total"  # bin: first token of the bin
STEP_BIN_SECONDS: Final = "llmservice_engine_step_bin_seconds_total"  # bin
KIND: Final = "kind"
KINDS: Final = ("prefill", "decode", "mixed")
FEATURES: Final = ("one", "tiles", "ktokens", "prefill_attention", "decodes", "decode_kv")
"""Step features: 1; tiles = ceil(tokens / tile); tokens / 1000; prefill attention work sum q (c + q/2) / 1e6;
decode sequences; decode KV tokens / 1000. `tokens` counts prompt and decode tokens of the step."""
RUNNING: Final = "llmservice_engine_running"  # phase: prefill, decode
WAITING: Final = "llmservice_engine_waiting"
HIDDEN: Final = "llmservice_engine_hidden"  # decodes left out of the last step
HIDDEN_TOTAL: Final = "llmservice_engine_hidden_decodes_total"  # one per decode and step
SLACK: Final = "llmservice_engine_token_slack_ratio"  # class, target; histogram of 1 - gap / target
MISSES: Final = "llmservice_engine_deadline_misses_total"  # class, target, cause
CAUSE: Final = "cause"
THETA: Final = "llmservice_engine_theta"  # offset of Eq. 8 in force, in mean batches; policies of SLAI's kind
EFFECTIVE_THETA: Final = "llmservice_engine_effective_theta"  # class, target; time left at a token, in mean steps
UNPULLED_BLOCKS: Final = "llmservice_engine_unpulled_kv_blocks"
KV_TOKENS: Final = "llmservice_engine_kv_tokens"  # capacity
KV_USAGE: Final = "llmservice_engine_kv_usage_ratio"
MAX_BATCHED_TOKENS: Final = "llmservice_engine_max_batched_tokens"
MAX_SEQS: Final = "llmservice_engine_max_seqs"
TILE_TOKENS: Final = "llmservice_engine_tile_tokens"
BAD_XARGS: Final = "llmservice_engine_bad_xargs_total"
PACED_STEPS: Final = "llmservice_engine_paced_steps_total"
PACE_OVERRUNS: Final = "llmservice_engine_pace_overruns_total"
PACE_LATE_SECONDS: Final = "llmservice_engine_pace_late_seconds_total"  # beyond the pace, late wake-ups included

# Operator
DECISIONS: Final = "llmservice_operator_decisions_total"  # llmservice, pool, reason
RECONCILE_SECONDS: Final = "llmservice_operator_reconcile_seconds"  # histogram
RECONCILE_ERRORS: Final = "llmservice_operator_reconcile_errors_total"  # llmservice, kind
API_REQUESTS: Final = "llmservice_operator_api_requests_total"  # verb
DESIRED_REPLICAS: Final = "llmservice_operator_desired_replicas"  # llmservice, pool
LOAD: Final = "llmservice_operator_load_ratio"  # llmservice, pool; lambda d / g of Theorem 1
# What the last plan started from; a series is absent while its number is unknown.
PLAN_ARRIVALS: Final = "llmservice_operator_plan_arrivals_rps"  # llmservice, class
PLAN_WORK: Final = "llmservice_operator_plan_work_replicas"  # llmservice, pool; lambda d
PLAN_TOKEN_SECONDS: Final = "llmservice_operator_plan_token_seconds"  # llmservice, pool, phase: prefill, decode; tau
PLAN_METRICS_AGE: Final = "llmservice_operator_plan_metrics_age_seconds"  # llmservice
