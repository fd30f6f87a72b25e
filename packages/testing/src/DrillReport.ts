/**
 * What a drill showed: the verdict, expectation by expectation, the figures, and a timeline, as data, JSON and Markdown.
 *
 * @since 0.1.0
 */
import * as Attempt from "@llm-resilience/core/Attempt"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import type { ResilienceEvent } from "@llm-resilience/core/ResilienceEvent"
import * as Duration from "effect/Duration"
import * as Alert from "./Alert.ts"
import type { Drill } from "./Drill.ts"
import { picture } from "./internal/chart.ts"

/**
 * Something that happened, in milliseconds since the start.
 *
 * @category models
 * @since 0.1.0
 */
export interface Line {
  readonly at: number
  readonly text: string
}

/**
 * What became of one expectation.
 *
 * @category models
 * @since 0.1.0
 */
export interface Verdict {
  readonly expectation: string
  readonly passed: boolean
  readonly found: string
}

/**
 * A request that got no answer: when it ended, after how long, what its caller got, and what was tried before.
 *
 * @category models
 * @since 0.1.0
 */
export interface Lost {
  readonly at: number
  readonly after: number
  readonly got: string
  readonly tried: ReadonlyArray<string>
}

/**
 * The report.
 *
 * **Details**
 *
 * Times are milliseconds. `lost` has the first ten requests that got no answer; `figures.failed` says how many there were. `remarks` are about the
 * drill itself. `served` counts answers by who gave them, the `cache` included; `events` counts by name. `seconds` has for each second
 * how many requests ended how: by whom they were answered, or `failed`.
 *
 * @category models
 * @since 0.1.0
 */
export interface DrillReport {
  readonly name: string
  readonly about: string
  readonly passed: boolean
  readonly remarks: ReadonlyArray<string>
  readonly verdicts: ReadonlyArray<Verdict>
  readonly figures: {
    readonly requests: number
    readonly answered: number
    readonly failed: number
    readonly served: { readonly [provider: string]: number }
    readonly latency: { readonly p50: number; readonly p95: number; readonly p99: number }
    readonly events: { readonly [name: string]: number }
  }
  readonly lost: ReadonlyArray<Lost>
  readonly alerts: ReadonlyArray<{ readonly name: string; readonly firedAt: ReadonlyArray<number> }>
  readonly seconds: ReadonlyArray<{ readonly [outcome: string]: number }>
  readonly timeline: ReadonlyArray<Line>
}

/**
 * What was seen of a drill: the events, what was done to whom (`acts`), when it ended in milliseconds, the rules of the alerts
 * ({@link Alert.defaults} unless given), and remarks about the drill itself.
 *
 * @category models
 * @since 0.1.0
 */
export interface Recording {
  readonly drill: Drill
  readonly events: ReadonlyArray<Alert.Noted>
  readonly acts: ReadonlyArray<Line>
  readonly until: number
  readonly alerts?: ReadonlyArray<Alert.Alert> | undefined
  readonly remarks?: ReadonlyArray<string> | undefined
}

/**
 * Judges what happened.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Recording): DrillReport => {
  const { acts, drill, events, remarks = [], until } = options
  const alerts = (options.alerts ?? Alert.defaults).map((alert) => ({
    name: alert.name,
    firedAt: Alert.fired(alert, events, until)
  }))
  const counted = new Map<string, number>()
  for (const { event } of events) counted.set(event._tag, (counted.get(event._tag) ?? 0) + 1)
  const ended = events.flatMap(requestOf)
  const verdicts = drill.expectations.map((expectation) => judge(expectation, events, ended, alerts))
  const told = events.flatMap(({ at, event }) => {
    const text = landmark(event) ? tell(event) : undefined
    return text === undefined ? [] : [{ at, text }]
  })
  const rang = alerts.flatMap(({ firedAt, name }) => firedAt.map((at) => ({ at, text: `alert "${name}" fires` })))
  return {
    name: drill.name,
    about: drill.about,
    passed: verdicts.every(({ passed }) => passed),
    remarks,
    verdicts,
    figures: {
      requests: ended.length,
      answered: ended.filter(({ by }) => by !== undefined).length,
      failed: ended.filter(({ by }) => by === undefined).length,
      served: Object.fromEntries(
        [...Map.groupBy(ended, ({ by }) => by ?? "")].flatMap(([by, all]) => (by === "" ? [] : [[by, all.length]]))
      ),
      latency: { p50: percentile(ended, 0.5), p95: percentile(ended, 0.95), p99: percentile(ended, 0.99) },
      events: Object.fromEntries(counted)
    },
    lost: lostOf(events),
    alerts,
    seconds: Array.from({ length: Math.ceil(until / 1000) }, (_, second) =>
      Object.fromEntries(
        [
          ...Map.groupBy(
            ended.filter(({ at }) => Math.floor(at / 1000) === second),
            ({ by }) => by ?? "failed"
          )
        ].map(([outcome, all]) => [outcome, all.length])
      )
    ),
    timeline: [...acts, ...told, ...rang].toSorted((left, right) => left.at - right.at)
  }
}

interface Ended {
  readonly at: number
  readonly by: string | undefined
  readonly millis: number
}

const requestOf = ({ at, event }: Alert.Noted): ReadonlyArray<Ended> => {
  if (event._tag === "RequestFailed") return [{ at, by: undefined, millis: Duration.toMillis(event.duration) }]
  if (event._tag !== "RequestAnswered") return []
  const { from, provider } = event.served
  return [{ at, by: from === "cache" ? "cache" : provider, millis: Duration.toMillis(event.duration) }]
}

const shownLost = 10

const lostOf = (events: ReadonlyArray<Alert.Noted>): ReadonlyArray<Lost> =>
  events
    .flatMap(({ at, event }) => (event._tag === "RequestFailed" ? [{ at, event }] : []))
    .slice(0, shownLost)
    .map(({ at, event: { duration, error, request } }) => ({
      at,
      after: Math.round(Duration.toMillis(duration)),
      got:
        error._tag === "LlmUnavailable"
          ? "no provider could answer"
          : `${ProviderError.kind(error)} from ${error.provider}`,
      tried:
        error._tag === "LlmUnavailable"
          ? error.attempts.map(Attempt.format)
          : events.flatMap(({ event }) =>
              event._tag === "AttemptFailed" && event.request === request ? [Attempt.format(event.attempt)] : []
            )
    }))

const percentile = (ended: ReadonlyArray<Ended>, share: number): number => {
  const sorted = ended.flatMap(({ by, millis }) => (by === undefined ? [] : [millis])).toSorted((a, b) => a - b)
  return Math.round(sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0)
}

type Expectation = Drill["expectations"][number]

const judge = (
  expectation: Expectation,
  events: ReadonlyArray<Alert.Noted>,
  ended: ReadonlyArray<Ended>,
  alerts: DrillReport["alerts"]
): Verdict => {
  if ("alert" in expectation) {
    const { alert, of, within } = expectation
    const from = Duration.toMillis(of)
    const at = alerts.find(({ name }) => name === alert)?.firedAt.find((at) => at >= from)
    return {
      expectation: `the alert "${alert}" fires within ${Duration.format(within)} of ${Duration.format(of)}`,
      passed: at !== undefined && at - from <= Duration.toMillis(within),
      found: at === undefined ? "it did not" : `after ${seconds(at - from)}`
    }
  }
  const from = expectation.after === undefined ? 0 : Duration.toMillis(expectation.after)
  const until = expectation.until === undefined ? Infinity : Duration.toMillis(expectation.until)
  const inside = ({ at }: { readonly at: number }): boolean => at >= from && at <= until
  const requests = ended.filter(inside)
  const answers = requests.filter(({ by }) => by !== undefined)
  const during = `${from === 0 ? "" : ` from ${seconds(from)} on`}${until === Infinity ? "" : ` until ${seconds(until)}`}`
  const none =
    requests.length === 0
      ? `no requests${during === "" ? "" : " in this window"}`
      : `none of ${requests.length} requests was answered`
  if ("answered" in expectation) {
    return {
      expectation: `at least ${percent(expectation.answered)} of the requests are answered${during}`,
      passed: requests.length > 0 && answers.length / requests.length >= expectation.answered,
      found: requests.length === 0 ? none : shareOf(answers.length, requests.length)
    }
  }
  if ("share" in expectation) {
    const by = answers.filter((answer) => answer.by === expectation.share).length
    return {
      expectation: `at least ${percent(expectation.atLeast)} of the answers come from ${expectation.share}${during}`,
      passed: answers.length > 0 && by / answers.length >= expectation.atLeast,
      found: answers.length === 0 ? none : shareOf(by, answers.length)
    }
  }
  if ("latency" in expectation) {
    const millis = percentile(requests, Number(expectation.latency.slice(1)) / 100)
    return {
      expectation: `the ${expectation.latency} is at most ${Duration.format(expectation.atMost)}${during}`,
      passed: answers.length > 0 && millis <= Duration.toMillis(expectation.atMost),
      found: answers.length === 0 ? none : exactly(millis)
    }
  }
  if ("metric" in expectation) {
    const count = events.filter((noted) => inside(noted) && noted.event._tag === expectation.metric).length
    return {
      expectation: `the metric ${expectation.metric} shows at least ${expectation.atLeast}${during}`,
      passed: count >= expectation.atLeast,
      found: String(count)
    }
  }
  if ("log" in expectation) {
    const line = events.find((noted) => inside(noted) && tell(noted.event)?.includes(expectation.log) === true)
    return {
      expectation: `the log says "${expectation.log}"${during}`,
      passed: line !== undefined,
      found: line === undefined ? "it does not" : `"${tell(line.event)}"`
    }
  }
  const given = events.filter(
    ({ at, event }) => inside({ at }) && event._tag === "NoticeGiven" && event.notice._tag === expectation.notice
  ).length
  return {
    expectation: `users are told: ${expectation.notice}${during}`,
    passed: given > 0,
    found: given === 0 ? "they were not" : `${given} of them`
  }
}

/**
 * Says in a line of a log what an event means, or `undefined` for those that only count.
 *
 * @category formatting
 * @since 0.1.0
 */
export const tell = (event: ResilienceEvent): string | undefined => {
  switch (event._tag) {
    case "AttemptFailed": {
      const then = event.decision.fallOver === "no" ? "goes up" : "falls over"
      return `${Attempt.format(event.attempt)}, ${then}`
    }
    case "StepSkipped":
      return `${event.provider} is skipped: ${event.reason._tag}`
    case "FellBack":
      return `${event.from} hands over to ${event.to}`
    case "Retried":
      return `${event.provider} is asked again in ${Attempt.brief(event.delay)}`
    case "CircuitChanged":
      return `circuit of ${event.provider}: ${event.from} -> ${event.to}`
    case "CooledDown":
      return `${event.provider} rests for ${Attempt.brief(event.duration)}`
    case "Isolated":
      return `${event.provider} is isolated: ${event.because}`
    case "HealthChanged":
      return `${event.provider} is ${event.to}: ${event.because}`
    case "CacheHit":
      return `the cache serves an answer that is ${Attempt.brief(event.age)} old`
    case "RequestFailed":
      return `no answer: ${event.error.message}`
    default:
      return undefined
  }
}

// What a timeline of a minute can hold.
const landmark = ({ _tag }: ResilienceEvent): boolean =>
  _tag === "CircuitChanged" || _tag === "CooledDown" || _tag === "HealthChanged"

const seconds = (millis: number): string => `${(millis / 1000).toFixed(1)} s`

// Whole milliseconds: rounded to a tenth of a second, 10 ms would be none, and a limit of 5 s kept that was not.
const exactly = (millis: number): string => (millis < 1000 ? `${millis} ms` : `${millis / 1000} s`)

const percent = (share: number): string => `${(Math.floor(share * 10_000) / 100).toFixed(2).replace(/\.?0+$/, "")} %`

const shareOf = (part: number, whole: number): string => `${percent(part / whole)} (${part} of ${whole})`

/**
 * Says which requests were lost: when, what the caller got and what was tried before, a line for each of the first ten, and how many more there
 * were.
 *
 * @category formatting
 * @since 0.1.0
 */
export const lostLines = ({ figures, lost }: DrillReport): ReadonlyArray<string> => {
  const more = figures.failed - lost.length
  const lines = lost.map(
    ({ after, at, got, tried }) =>
      `${seconds(at)}: ${got} after ${exactly(after)}${tried.length === 0 ? "" : ` (${tried.join("; ")})`}`
  )
  return [...lines, ...(more > 0 ? [`and ${more} more`] : [])]
}

/**
 * Writes a report as Markdown.
 *
 * @category formatting
 * @since 0.1.0
 */
export const toMarkdown = (report: DrillReport): string => {
  const { figures } = report
  const { latency } = figures
  const row = (...cells: ReadonlyArray<string>) => `| ${cells.map(inCell).join(" | ")} |`
  return [
    `# Drill: ${report.name}`,
    "",
    report.about,
    "",
    `**Verdict: ${report.passed ? "passed" : "FAILED"}**`,
    "",
    ...report.remarks.flatMap((remark) => [remark, ""]),
    row("", "expectation", "found"),
    row("---", "---", "---"),
    ...report.verdicts.map(({ expectation, found, passed }) =>
      row(passed ? "passed" : "**FAILED**", expectation, found)
    ),
    "",
    "## Figures",
    "",
    row("requests", "answered", "failed", "p50", "p95", "p99"),
    row("---", "---", "---", "---", "---", "---"),
    row(
      ...[figures.requests, figures.answered, figures.failed].map(String),
      ...[latency.p50, latency.p95, latency.p99].map(exactly)
    ),
    "",
    row("served by", "answers"),
    row("---", "---"),
    ...Object.entries(figures.served).map(([name, count]) => row(name, String(count))),
    "",
    ...(report.lost.length === 0 ? [] : ["## Lost requests", "", ...lostLines(report).map((line) => `- ${line}`), ""]),
    "## Timeline",
    "",
    "```",
    ...report.timeline.map(({ at, text }) => `${seconds(at).padStart(8)}  ${text}`),
    "```",
    ""
  ].join("\n")
}

// A bar would begin the next cell, and a new line the next row.
const inCell = (text: string): string => text.replaceAll("|", "\\|").replaceAll(/\s*\n\s*/g, " ")

/**
 * Draws a report as an SVG: who answered in each second, and what was done to whom.
 *
 * @category formatting
 * @since 0.1.0
 */
export const toSvg = (report: DrillReport): string => picture(report)

/**
 * Writes a report as JSON.
 *
 * @category formatting
 * @since 0.1.0
 */
export const toJson = (report: DrillReport): string => JSON.stringify(report, undefined, 2)
