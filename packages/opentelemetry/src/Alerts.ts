/**
 * Alert rules for Prometheus, each with a runbook.
 *
 * `alerts/llm-resilience.rules.yaml` in this package is what {@link toYaml} makes of {@link rules} without options: copy it, or generate it with
 * thresholds of your own.
 *
 * **Example** (A tighter rule)
 *
 * ```ts import.meta.vitest
 * import { Alerts } from "@llm-resilience/opentelemetry"
 *
 * const groups = Alerts.rules({ for: { LlmFallbackActive: "30s" }, fallbackShare: 0.01 })
 * const rule = groups.flatMap(({ rules }) => rules).find(({ alert }) => alert === "LlmFallbackActive")
 *
 * rule?.for // => "30s"
 * rule?.expr.endsWith("> 0.01") // => true
 * ```
 *
 * @since 0.1.0
 */
import * as Metrics from "@llm-resilience/core/Metrics"
import { nameOf } from "./Prometheus.ts"

/**
 * A duration as Prometheus writes it, such as `90s` or `5m`.
 *
 * @category models
 * @since 0.1.0
 */
export type PromDuration = `${number}${"s" | "m" | "h" | "d"}`

/**
 * The names of the alerts.
 *
 * @category models
 * @since 0.1.0
 */
export type Alert =
  | "LlmFallbackActive"
  | "LlmCircuitOpen"
  | "LlmAllProvidersFailing"
  | "LlmServingFromCache"
  | "LlmLatencyBudgetBurn"
  | "LlmRateLimited"
  | "LlmQuotaExhausted"
  | "LlmQueueGrowing"
  | "LlmBackupUntested"

/**
 * One alert rule.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rule {
  readonly alert: Alert
  readonly expr: string
  readonly for: PromDuration
  readonly labels: { readonly severity: "info" | "warning" | "critical" }
  readonly annotations: { readonly summary: string; readonly description: string; readonly runbook_url: string }
}

/**
 * Rules that are evaluated together.
 *
 * @category models
 * @since 0.1.0
 */
export interface Group {
  readonly name: string
  readonly interval?: PromDuration | undefined
  readonly rules: ReadonlyArray<Rule>
}

/**
 * What can be chosen.
 *
 * **Details**
 *
 * - `window`: over which rates are taken, `5m` by default; at least four times the interval of the scrapes.
 * - `for`: how long a condition has to hold, by alert.
 * - `fallbackShare`, `unavailableShare`, `cacheShare`: the share of the traffic from which on these alerts fire, 5 % by default.
 * - `latency`: the objective. `target` in seconds is one of the bounds of the histogram, 10.24 by default; `objective` the share of answers, or of
 *   first contents of streams, that are to be within it, 0.95 by default. The alert fires when the budget burns `rate` (6) times as fast as it may, over
 *   `long` (1h) and `short` (5m).
 * - `cooldowns`: rests within ten minutes that are too many, 3 by default.
 * - `queued`: requests in the deferred queue from which on its growth matters, 10 by default.
 * - `untestedFor`: how long a step may go without answering anything, `30d` by default. Prometheus has to keep its data for a day longer, or this
 *   alert never fires; without `--storage.tsdb.retention.time` it keeps them for 15 days.
 * - `runbooks`: the address under which the runbooks are.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly window?: PromDuration | undefined
  readonly for?: { readonly [A in Alert]?: PromDuration | undefined } | undefined
  readonly fallbackShare?: number | undefined
  readonly unavailableShare?: number | undefined
  readonly cacheShare?: number | undefined
  readonly latency?:
    | {
        readonly target?: number | undefined
        readonly objective?: number | undefined
        readonly rate?: number | undefined
        readonly long?: PromDuration | undefined
        readonly short?: PromDuration | undefined
      }
    | undefined
  readonly cooldowns?: number | undefined
  readonly queued?: number | undefined
  readonly untestedFor?: PromDuration | undefined
  readonly runbooks?: string | undefined
}

const { answers, attempts, circuit, cooldowns, duration, firstContent, isolations, queue } = Metrics.definitions

/**
 * Creates the rules.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rules = (options?: Options): ReadonlyArray<Group> => {
  const window = options?.window ?? "5m"
  const runbooks = options?.runbooks ?? "https://github.com/llm-resilience/llm-resilience/blob/main/docs/runbooks"
  const untestedFor = options?.untestedFor ?? "30d"
  const unavailable = `sum(rate(${nameOf(duration)}_count{outcome=~"unavailable|queued"}[${window}]))`
  const rule = (
    alert: Alert,
    severity: Rule["labels"]["severity"],
    holds: PromDuration,
    expr: string,
    summary: string,
    description: string
  ): Rule => ({
    alert,
    expr,
    for: options?.for?.[alert] ?? holds,
    labels: { severity },
    annotations: { summary, description, runbook_url: `${runbooks}/${fileOf(alert)}` }
  })

  return [
    {
      name: "llm-resilience",
      rules: [
        rule(
          "LlmFallbackActive",
          "warning",
          "2m",
          `sum(rate(${nameOf(answers)}{source="provider",fallback="true"}[${window}]))\n  / sum(rate(${nameOf(answers)}{source="provider"}[${window}])) > ${options?.fallbackShare ?? 0.05}`,
          "Answers come from a backup",
          "{{ $value | humanizePercentage }} of the answers came from a step after one that failed or was skipped."
        ),
        rule(
          "LlmCircuitOpen",
          "warning",
          "5m",
          `avg by (provider) (${nameOf(circuit)}{state="Closed"}) < 0.5`,
          "The circuit of {{ $labels.provider }} is open",
          "Most instances do not call {{ $labels.provider }}: its circuit is open, half-open or isolated."
        ),
        rule(
          "LlmAllProvidersFailing",
          "critical",
          "1m",
          `${unavailable}\n  / sum(rate(${nameOf(duration)}_count[${window}])) > ${options?.unavailableShare ?? 0.05}`,
          "Requests end without an answer",
          "{{ $value | humanizePercentage }} of the requests were answered by nobody: every provider failed or was left alone."
        ),
        rule(
          "LlmServingFromCache",
          "warning",
          "2m",
          `sum(rate(${nameOf(answers)}{source="cache"}[${window}]))\n  / sum(rate(${nameOf(answers)}[${window}])) > ${options?.cacheShare ?? 0.05}`,
          "Users get earlier answers",
          "{{ $value | humanizePercentage }} of the answers came from the emergency cache."
        ),
        rule(
          "LlmLatencyBudgetBurn",
          "warning",
          "2m",
          burn(options?.latency),
          "Answers are too slow",
          "{{ $value | humanizePercentage }} of the answers took longer than the objective allows, and the budget burns too fast."
        ),
        rule(
          "LlmRateLimited",
          "warning",
          "5m",
          `sum by (provider) (increase(${nameOf(cooldowns)}[10m])) > ${options?.cooldowns ?? 3}`,
          "{{ $labels.provider }} limits our rate",
          "{{ $labels.provider }} asked for rest {{ $value | humanize }} times within ten minutes."
        ),
        rule(
          "LlmQuotaExhausted",
          "critical",
          "0s",
          // A wrong key is met by the first request, often before the first scrape: what a new series begins with counts too.
          `sum by (provider, reason) (\n  (${nameOf(isolations)} unless max_over_time(${nameOf(isolations)}[1h] offset 15m))\n  or increase(${nameOf(isolations)}[15m])\n) > 0`,
          "{{ $labels.provider }} needs a person: {{ $labels.reason }}",
          "{{ $labels.provider }} answered with {{ $labels.reason }} and is left alone. Only a change of the account or the configuration cures that."
        ),
        rule(
          "LlmQueueGrowing",
          "warning",
          "10m",
          `max(${nameOf(queue)}{state="queued"}) > ${options?.queued ?? 10}\n  and max(deriv(${nameOf(queue)}{state="queued"}[15m])) > 0`,
          "The deferred queue grows",
          "{{ $value }} requests wait, and more come than are answered."
        )
      ]
    },
    {
      name: "llm-resilience-drills",
      // The range is long and the answer seldom new.
      interval: "1h",
      rules: [
        rule(
          "LlmBackupUntested",
          "info",
          "0s",
          // A day to be seen in, then and now: a step that is gone cannot be tested, and an application may sleep at night.
          `sum by (provider) (increase(${nameOf(attempts)}{outcome="succeeded"}[${untestedFor}])) == 0\n  and on (provider) count by (provider) (present_over_time(${nameOf(attempts)}[1d] offset ${untestedFor}))\n  and on (provider) count by (provider) (present_over_time(${nameOf(attempts)}[1d]))`,
          "{{ $labels.provider }} was not tried for a long time",
          `{{ $labels.provider }} has answered nothing for ${untestedFor}. Nobody knows whether it would.`
        )
      ]
    }
  ]
}

/**
 * Returns the name of an alert's runbook.
 *
 * @category conversions
 * @since 0.1.0
 */
export const fileOf = (alert: Alert): string =>
  `${alert
    .replace(/^Llm/, "")
    .replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
    .slice(1)}.md`

// Good are whole answers, and first contents of streams: the rest of a stream is as slow as its reader.
const burn = (latency: Options["latency"]): string => {
  const target = latency?.target ?? 10.24
  const objective = latency?.objective ?? 0.95
  if (!(duration.boundaries ?? []).includes(target)) {
    throw new RangeError(
      `Alerts.rules: latency.target must be one of ${duration.boundaries?.join(", ")}, got ${target}`
    )
  }
  if (!(objective > 0 && objective < 1)) {
    throw new RangeError(`Alerts.rules: latency.objective must be in (0, 1), got ${objective}`)
  }
  const bad = Number(((latency?.rate ?? 6) * (1 - objective)).toPrecision(6))
  const whole = nameOf(duration)
  const streamed = nameOf(firstContent)
  const slow = (window: PromDuration) => {
    const of = (suffix: string, le: string) =>
      `((sum(rate(${whole}${suffix}{method="generate",outcome="answered"${le}}[${window}])) or vector(0))` +
      ` + (sum(rate(${streamed}${suffix}${le === "" ? "" : `{${le.slice(1)}}`}[${window}])) or vector(0)))`
    return `1 - ${of("_bucket", `,le="${target}"`)}\n    / ${of("_count", "")}`
  }
  return `(${slow(latency?.long ?? "1h")}) > ${bad}\n  and (${slow(latency?.short ?? "5m")}) > ${bad}`
}

/**
 * Writes rules as the file that Prometheus reads.
 *
 * @category formatting
 * @since 0.1.0
 */
export const toYaml = (groups: ReadonlyArray<Group>): string => {
  const lines = ["groups:"]
  for (const { interval, name, rules } of groups) {
    lines.push(`  - name: ${name}`)
    if (interval !== undefined) lines.push(`    interval: ${interval}`)
    lines.push("    rules:")
    for (const rule of rules) {
      lines.push(`      - alert: ${rule.alert}`, "        expr: |-")
      lines.push(...rule.expr.split("\n").map((line) => `          ${line}`))
      lines.push(`        for: ${rule.for}`, "        labels:", `          severity: ${rule.labels.severity}`)
      lines.push("        annotations:")
      // A string of JSON is one of YAML.
      for (const [key, value] of Object.entries(rule.annotations))
        lines.push(`          ${key}: ${JSON.stringify(value)}`)
    }
  }
  return `${lines.join("\n")}\n`
}
