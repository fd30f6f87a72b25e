/**
 * Dashboards for Grafana over the metrics in Prometheus: an overview, one for each provider, and what it costs.
 *
 * The files in `dashboards/` of this package are these values as JSON, to be imported as they are. Each asks which data source to use.
 *
 * @since 0.1.0
 */
import * as Metrics from "@llm-resilience/core/Metrics"
import { nameOf } from "./Prometheus.ts"

/**
 * A dashboard, as far as this module writes one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Dashboard {
  readonly uid: string
  readonly title: string
  readonly description: string
  readonly panels: ReadonlyArray<Panel>
  readonly [field: string]: unknown
}

/**
 * A panel with its queries.
 *
 * @category models
 * @since 0.1.0
 */
export interface Panel {
  readonly title: string
  readonly description: string
  readonly targets: ReadonlyArray<{ readonly expr: string; readonly legendFormat: string; readonly refId: string }>
  readonly [field: string]: unknown
}

const name = Object.fromEntries(
  Object.entries(Metrics.definitions).map(([key, definition]) => [key, nameOf(definition)])
) as { readonly [K in keyof typeof Metrics.definitions]: string }

const per = "[$__rate_interval]"

interface Drawing {
  readonly title: string
  readonly about: string
  readonly unit?: string
  readonly queries: ReadonlyArray<readonly [expr: string, legend: string]>
  readonly type?: "timeseries" | "stat" | "state-timeline"
  readonly stacked?: true
}

const dashboard = (
  uid: string,
  title: string,
  description: string,
  drawings: ReadonlyArray<Drawing>,
  provider: "ask" | "all"
): Dashboard => ({
  uid: `llm-resilience-${uid}`,
  title: `LLM resilience: ${title}`,
  description,
  tags: ["llm", "llm-resilience"],
  schemaVersion: 39,
  version: 1,
  editable: true,
  refresh: "30s",
  time: { from: "now-3h", to: "now" },
  templating: {
    list: [
      { name: "datasource", type: "datasource", query: "prometheus", label: "Data source" },
      ...(provider === "ask"
        ? [
            {
              name: "provider",
              type: "query",
              label: "Provider",
              datasource,
              query: { query: `label_values(${name.attempts}, provider)`, refId: "providers" },
              multi: true,
              includeAll: true,
              refresh: 2
            }
          ]
        : [])
    ]
  },
  panels: drawings.map(panel)
})

const datasource = { type: "prometheus", uid: "${datasource}" }

const panel = ({ about, queries, stacked, title, type, unit }: Drawing, index: number): Panel => ({
  id: index + 1,
  title,
  description: about,
  type: type ?? "timeseries",
  datasource,
  gridPos: { x: (index % 2) * 12, y: Math.floor(index / 2) * 8, w: 12, h: 8 },
  fieldConfig: {
    defaults: {
      unit: unit ?? "short",
      min: 0,
      custom: { fillOpacity: 10, ...(stacked === true ? { stacking: { mode: "normal" } } : undefined) }
    },
    overrides: []
  },
  options: { legend: { displayMode: "list", placement: "bottom" } },
  targets: queries.map(([expr, legendFormat], query) => ({
    datasource,
    expr,
    legendFormat,
    refId: String.fromCodePoint(65 + query)
  }))
})

const quantile = (q: number, metric: string, by: string, where = ""): string =>
  `histogram_quantile(${q}, sum by (le${by === "" ? "" : `, ${by}`}) (rate(${metric}_bucket${where}${per})))`

/**
 * How the whole chain is doing.
 *
 * @category constants
 * @since 0.1.0
 */
export const overview: Dashboard = dashboard(
  "overview",
  "overview",
  "Whether users get answers, from whom, and how fast.",
  [
    {
      title: "Requests by how they ended",
      about:
        "Answered, unavailable (nobody could answer), queued, failed (the request itself was wrong), abandoned (the caller left).",
      unit: "reqps",
      stacked: true,
      queries: [[`sum by (outcome) (rate(${name.duration}_count${per}))`, "{{outcome}}"]]
    },
    {
      title: "Answers by who gave them",
      about: "Fallback is true for an answer before which a step failed or was skipped.",
      unit: "reqps",
      stacked: true,
      queries: [
        [
          `sum by (provider, source, fallback) (rate(${name.answers}${per}))`,
          "{{provider}} {{source}} fallback={{fallback}}"
        ]
      ]
    },
    {
      title: "Share of answers after a fallback",
      about: "The figure behind the alert LlmFallbackActive.",
      unit: "percentunit",
      queries: [
        [
          `sum(rate(${name.answers}{source="provider",fallback="true"}${per})) / sum(rate(${name.answers}{source="provider"}${per}))`,
          "fallback"
        ],
        [`sum(rate(${name.answers}{source="cache"}${per})) / sum(rate(${name.answers}${per}))`, "cache"]
      ]
    },
    {
      title: "Fallbacks by cause",
      about: "Turns from one step to another, and why.",
      unit: "reqps",
      queries: [[`sum by (from, to, reason) (rate(${name.fallbacks}${per}))`, "{{from}} to {{to}}: {{reason}}"]]
    },
    {
      title: "Duration of requests",
      about: "Everything included: retries, fallbacks, waiting.",
      unit: "s",
      queries: [
        [quantile(0.5, name.duration, "", `{outcome="answered"}`), "median"],
        [quantile(0.95, name.duration, "", `{outcome="answered"}`), "95 %"],
        [quantile(0.95, name.firstContent, ""), "95 % to the first content of a stream"]
      ]
    },
    {
      title: "Circuits that are not closed",
      about: "1 while a provider is not called as usual.",
      type: "state-timeline",
      queries: [[`1 - avg by (provider) (${name.circuit}{state="Closed"})`, "{{provider}}"]]
    },
    {
      title: "What users were told",
      about: "Notices by kind.",
      unit: "reqps",
      queries: [[`sum by (notice) (rate(${name.notices}${per}))`, "{{notice}}"]]
    },
    {
      title: "Requests under way",
      about: "Across all instances.",
      queries: [[`sum(${name.active})`, "under way"]]
    },
    {
      title: "Deferred queue",
      about: "Requests that wait for a provider to come back.",
      queries: [[`max by (state) (${name.queue})`, "{{state}}"]]
    },
    {
      title: "Overhead of this library",
      about: "Duration of answered requests without calls to providers and waits.",
      unit: "s",
      queries: [[quantile(0.95, name.overhead, "method"), "95 % {{method}}"]]
    }
  ],
  "all"
)

const chosen = `{provider=~"$provider"}`
const chosenModel = `{gen_ai_provider_name=~"$provider"}`

/**
 * How single providers are doing.
 *
 * @category constants
 * @since 0.1.0
 */
export const provider: Dashboard = dashboard(
  "provider",
  "providers",
  "How each provider is doing, and what was decided about it.",
  [
    {
      title: "Attempts",
      about: "Steps that were asked, and how that ended.",
      unit: "reqps",
      queries: [
        [
          `sum by (provider, outcome, reason) (rate(${name.attempts}${chosen}${per}))`,
          "{{provider}} {{outcome}} {{reason}}"
        ]
      ]
    },
    {
      title: "Skips",
      about: "Why a provider was passed over without a call.",
      unit: "reqps",
      queries: [[`sum by (provider, reason) (rate(${name.skips}${chosen}${per}))`, "{{provider}}: {{reason}}"]]
    },
    {
      title: "Duration of single calls",
      about: "As the provider takes it, without our waiting.",
      unit: "s",
      queries: [
        [quantile(0.5, name.callDuration, "gen_ai_provider_name", chosenModel), "{{gen_ai_provider_name}} median"],
        [quantile(0.95, name.callDuration, "gen_ai_provider_name", chosenModel), "{{gen_ai_provider_name}} 95 %"]
      ]
    },
    {
      title: "Time to the first content of streams",
      about: "From the moment the request is sent.",
      unit: "s",
      queries: [[quantile(0.95, name.firstChunk, "gen_ai_provider_name", chosenModel), "{{gen_ai_provider_name}} 95 %"]]
    },
    {
      title: "Errors of single calls",
      about: "Retries and hedges included.",
      unit: "reqps",
      queries: [
        [
          `sum by (gen_ai_provider_name, error_type) (rate(${name.callDuration}_count{gen_ai_provider_name=~"$provider",error_type!=""}${per}))`,
          "{{gen_ai_provider_name}}: {{error_type}}"
        ]
      ]
    },
    {
      title: "Circuit",
      about: "The state that most instances see.",
      type: "state-timeline",
      queries: [[`avg by (provider, state) (${name.circuit}${chosen})`, "{{provider}} {{state}}"]]
    },
    {
      title: "Rest",
      about:
        "How long a provider will still be left alone, because it asked for that or its account has to be put right.",
      unit: "s",
      queries: [[`max by (provider) (${name.rest}${chosen})`, "{{provider}}"]]
    },
    {
      title: "Rate limits and isolations",
      about: "Rests that it asked for, and errors that only a person can cure.",
      queries: [
        [`sum by (provider) (increase(${name.cooldowns}${chosen}${per}))`, "{{provider}} asked for rest"],
        [`sum by (provider, reason) (increase(${name.isolations}${chosen}${per}))`, "{{provider}} {{reason}}"]
      ]
    },
    {
      title: "Retries and hedges",
      about: "And those that the budget did not allow.",
      unit: "reqps",
      queries: [
        [`sum by (provider, reason) (rate(${name.retries}${chosen}${per}))`, "{{provider}} retry: {{reason}}"],
        [`sum by (provider, to) (rate(${name.hedges}${chosen}${per}))`, "{{provider}} hedged by {{to}}"],
        [`sum by (provider, extra) (rate(${name.budgets}${chosen}${per}))`, "{{provider}} no budget: {{extra}}"]
      ]
    },
    {
      title: "Budget for retries and hedges",
      about: "How many the emptiest instance may still send; at 0 a failure falls over at once.",
      queries: [[`min by (provider) (${name.budgetLeft}${chosen})`, "{{provider}}"]]
    },
    {
      title: "Load",
      about: "Calls under way and waiting for a permit, and how many may be under way, across all instances.",
      queries: [
        [`sum by (provider) (${name.inFlight}${chosen})`, "{{provider}} under way"],
        [`sum by (provider) (${name.waiting}${chosen})`, "{{provider}} waiting"],
        [`sum by (provider) (${name.limit}${chosen})`, "{{provider}} limit"]
      ]
    },
    {
      title: "Limits of our own",
      about: "Waits for them, and requests that gave way.",
      unit: "s",
      queries: [
        [quantile(0.95, name.throttled, "provider, limit", chosen), "{{provider}} {{limit}} 95 %"],
        [`sum by (provider, priority) (rate(${name.shed}${chosen}${per}))`, "{{provider}} gave way: {{priority}}"]
      ]
    },
    {
      title: "Health",
      about: "1 for the health that a provider has.",
      type: "state-timeline",
      queries: [[`max by (provider, state) (${name.health}${chosen})`, "{{provider}} {{state}}"]]
    },
    {
      title: "Streams that broke",
      about: "And who went on with them.",
      unit: "reqps",
      queries: [[`sum by (from, to, outcome) (rate(${name.recoveries}${per}))`, "{{from}} {{to}} {{outcome}}"]]
    }
  ],
  "ask"
)

/**
 * What answers cost.
 *
 * @category constants
 * @since 0.1.0
 */
export const cost: Dashboard = dashboard(
  "cost",
  "cost",
  "Tokens and money, by provider and model. Providers without a price have tokens only.",
  [
    {
      title: "Dollars an hour",
      about: "At the present rate.",
      unit: "currencyUSD",
      stacked: true,
      queries: [[`sum by (provider, model) (rate(${name.cost}${per})) * 3600`, "{{provider}} {{model}}"]]
    },
    {
      title: "Dollars in the time shown",
      about: "The sum.",
      unit: "currencyUSD",
      type: "stat",
      queries: [[`sum by (provider) (increase(${name.cost}[$__range]))`, "{{provider}}"]]
    },
    {
      title: "Tokens a second",
      about: "Retries, second calls and rejected answers included.",
      stacked: true,
      queries: [
        [
          `sum by (gen_ai_provider_name, gen_ai_token_type) (rate(${name.tokens}_sum${per}))`,
          "{{gen_ai_provider_name}} {{gen_ai_token_type}}"
        ]
      ]
    },
    {
      title: "Tokens of one call",
      about: "Median and 95 %.",
      queries: [
        [quantile(0.5, name.tokens, "gen_ai_token_type"), "{{gen_ai_token_type}} median"],
        [quantile(0.95, name.tokens, "gen_ai_token_type"), "{{gen_ai_token_type}} 95 %"]
      ]
    },
    {
      title: "Dollars for a thousand answers",
      about: "What users get for the money.",
      unit: "currencyUSD",
      queries: [[`1000 * sum(rate(${name.cost}${per})) / sum(rate(${name.answers}${per}))`, "a thousand answers"]]
    },
    {
      title: "Answers that cost nothing",
      about: "From the emergency cache.",
      unit: "percentunit",
      queries: [
        [`sum(rate(${name.answers}{source=~".*cache"}${per})) / sum(rate(${name.answers}${per}))`, "from the cache"]
      ]
    },
    {
      title: "Emergency cache",
      about: "What it was asked, and what it found.",
      unit: "reqps",
      queries: [
        [`sum by (result, match) (rate(${name.lookups}${per}))`, "{{result}} {{match}}"],
        [`sum by (result) (rate(${name.writes}${per}))`, "{{result}}"]
      ]
    },
    {
      title: "Age of cached answers",
      about: "That were served.",
      unit: "s",
      queries: [[quantile(0.95, name.cacheAge, "match"), "{{match}} 95 %"]]
    },
    {
      title: "Similar answers that were not served",
      about:
        "Refused, because the questions differ in what matters; compared with a new answer, and what came of that.",
      unit: "reqps",
      queries: [
        [`sum by (reason) (rate(${name.similarRefused}_count${per}))`, "refused: {{reason}}"],
        [`sum by (match, verdict) (rate(${name.shadowed}_count${per}))`, "{{match}} would have been {{verdict}}"]
      ]
    }
  ],
  "all"
)
