/**
 * What becomes of a call when the upstream misbehaves, for each fault and each system.
 */
import * as Fault from "@llm-resilience/testing/Fault"
import type { Question } from "@llm-resilience/testing/Answer"
import * as Upstream from "@llm-resilience/testing/Upstream"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { Limits } from "./Client.ts"
import type { Outcome, Running, System } from "./Systems.ts"

/**
 * The same for all systems. Shorter than in production, so that the table is done in minutes; the deadline leaves room for four
 * attempts that time out, so that nobody who tries that often before the backup is asked runs out of time for this reason.
 */
export const limits: Limits = { attemptMillis: 3000, idleMillis: 2000, deadlineMillis: 15_000 }

/** What the program of a user gets to see. */
export type Verdict = "answered" | "error" | "wrong" | "late" | "hung" | "left" | "leaked" | "crashed"

export interface Scenario {
  readonly name: string
  readonly about: string
  readonly primary: Fault.Fault | "down" | undefined | ((index: number) => Fault.Fault | undefined)
  readonly backup?: Fault.Fault | undefined
  /** Streams, whole answers, or both when absent. */
  readonly only?: "stream" | "whole" | undefined
  readonly times?: number | undefined
  readonly leaveAfterMillis?: number | undefined
}

const once =
  (fault: Fault.Fault) =>
  (index: number): Fault.Fault | undefined =>
    index === 0 ? fault : undefined

const contextLength = Fault.status(400, {
  body: {
    error: {
      message: "This model's maximum context length is 8192 tokens. Please reduce the length of the messages.",
      type: "invalid_request_error",
      param: "messages",
      code: "context_length_exceeded"
    }
  }
})

const contentPolicy = Fault.status(400, {
  body: {
    error: {
      message: "The response was filtered due to the prompt triggering the content management policy.",
      type: "invalid_request_error",
      param: "prompt",
      code: "content_filter"
    }
  }
})

const healthy: Scenario = { name: "healthy", about: "nothing goes wrong", primary: undefined }

export const scenarios: ReadonlyArray<Scenario> = [
  healthy,
  {
    name: "rate limit once",
    about: "one 429, retry-after 1 s",
    primary: once(Fault.status(429, { headers: { "retry-after": "1" } }))
  },
  {
    name: "rate limit",
    about: "429 forever, retry-after 30 s",
    primary: Fault.status(429, { headers: { "retry-after": "30" } })
  },
  { name: "500 once", about: "one 500", primary: once(Fault.status(500)) },
  { name: "overloaded", about: "503 forever", primary: Fault.status(503) },
  { name: "refused", about: "nobody listens", primary: "down" },
  { name: "reset", about: "connection reset before headers", primary: Fault.resetBeforeHeaders },
  { name: "silence", about: "accepts and never answers", primary: Fault.silence },
  { name: "slow first token", about: "first token after 20 s", primary: Fault.slowFirstToken("20 seconds") },
  { name: "bad key", about: "401", primary: Fault.status(401) },
  { name: "context length", about: "400, prompt too long for the primary", primary: contextLength },
  { name: "content policy", about: "400, prompt refused by policy", primary: contentPolicy },
  { name: "error under 200", about: "status 200, an error as JSON", primary: Fault.errorUnder200() },
  { name: "page under 200", about: "status 200, a page of HTML", primary: Fault.notJson() },
  { name: "empty 200", about: "status 200 and nothing", primary: Fault.empty },
  { name: "cut", about: "connection closed after 12 tokens", primary: Fault.cut(12) },
  { name: "ended early", about: "proper end after 12 tokens, no finish reason", primary: Fault.endEarly(12) },
  { name: "stall", about: "silence after 12 tokens", primary: Fault.stall(12) },
  { name: "malformed", about: "a broken event after 12 tokens", primary: Fault.malformedChunk(12) },
  { name: "error event", about: "an error event after 12 tokens", primary: Fault.errorFrame(12), only: "stream" },
  {
    name: "short body",
    about: "fewer bytes than content-length promised",
    primary: Fault.wrongContentLength(40),
    only: "whole"
  },
  { name: "no [DONE]", about: "complete, but the terminator is missing", primary: Fault.missingTerminator },
  {
    name: "flapping",
    about: "every second call a 500, ten calls",
    primary: (index) => (index % 2 === 0 ? Fault.status(500) : undefined),
    times: 10
  },
  { name: "all down", about: "503 forever on both", primary: Fault.status(503), backup: Fault.status(503) },
  { name: "caller leaves", about: "after 500 ms of silence", primary: Fault.silence, leaveAfterMillis: 500 }
]

export interface Cell {
  readonly system: string
  readonly scenario: string
  readonly stream: boolean
  readonly verdict: Verdict
  readonly seconds: number
  /** `undefined` where nobody listens, so nobody counts. */
  readonly primaryCalls: number | undefined
  readonly backupCalls: number
  readonly detail: string | undefined
}

/** All cells: each scenario is one round, in which all systems are asked at the same time, each with upstreams of its own. */
export const table = (
  running: ReadonlyArray<Running>,
  options: { readonly concurrency: number; readonly progress: (name: string) => Effect.Effect<void> }
): Effect.Effect<ReadonlyArray<Cell>> => {
  const rounds = scenarios.flatMap((scenario) =>
    scenario.only === undefined
      ? [
          { scenario, stream: false },
          { scenario, stream: true }
        ]
      : [{ scenario, stream: scenario.only === "stream" }]
  )
  // The first calls of a process compile what they need. Nobody is judged by them.
  const warmUp = Effect.forEach(running, (system) =>
    Effect.andThen(cell(system, healthy, false), cell(system, healthy, true))
  )
  return Effect.map(
    Effect.andThen(
      warmUp,
      Effect.forEach(
        rounds,
        ({ scenario, stream }) =>
          Effect.forEach(running, (system) => cell(system, scenario, stream), { concurrency: "unbounded" }).pipe(
            Effect.tap(options.progress(`${scenario.name}${stream ? ", streamed" : ""}`))
          ),
        { concurrency: options.concurrency }
      )
    ),
    (cells) => cells.flat()
  )
}

const graceMillis = 500

/** One scenario for one system, with upstreams of its own. */
export const cell = (running: Running, scenario: Scenario, stream: boolean): Effect.Effect<Cell> =>
  Effect.gen(function* () {
    const primary = yield* Upstream.make({ answer: primaryAnswer, tokenEvery: "2 millis" })
    const backup = yield* Upstream.make({ answer: backupAnswer, tokenEvery: "2 millis", fault: scenario.backup })
    if (scenario.primary === "down") yield* primary.down
    else yield* primary.setFault(scenario.primary)
    const outcomes = yield* running.order({
      _tag: "Ask",
      upstreams: { primary: primary.baseUrl, backup: backup.baseUrl },
      limits,
      stream,
      times: scenario.times ?? 1,
      leaveAfterMillis: scenario.leaveAfterMillis,
      patienceMillis: (scenario.leaveAfterMillis ?? limits.deadlineMillis) + 3000
    })
    const left = scenario.leaveAfterMillis !== undefined
    // Whatever a system still does behind the back of the caller shows up by then.
    yield* Effect.sleep(left ? 2000 : 200).pipe(Effect.provideService(Clock.Clock, Clock.Clock.defaultValue()))
    const asked = yield* primary.requests
    const backupCalls = (yield* backup.requests).length
    const aborted = asked.length === 1 && asked.every(({ abortedAt }) => abortedAt !== undefined)
    const verdicts = outcomes.map((outcome) =>
      left ? (aborted && backupCalls === 0 ? "left" : "leaked") : judge(outcome)
    )
    const worst = verdicts.toSorted((one, other) => severity.indexOf(other) - severity.indexOf(one))[0] ?? "crashed"
    return {
      ...titleOf(running.system, scenario, stream),
      verdict: worst,
      seconds: Math.max(...outcomes.map(({ millis }) => millis)) / 1000,
      primaryCalls: scenario.primary === "down" ? undefined : asked.length,
      backupCalls,
      detail: detailOf(outcomes.find((_, index) => verdicts[index] === worst))
    } satisfies Cell
  }).pipe(
    Effect.scoped,
    Effect.catch((crashed) =>
      Effect.succeed<Cell>({
        ...titleOf(running.system, scenario, stream),
        verdict: "crashed",
        seconds: 0,
        primaryCalls: undefined,
        backupCalls: 0,
        detail: crashed.message
      })
    )
  )

const titleOf = (system: System, scenario: Scenario, stream: boolean) => ({
  system: system.name,
  scenario: scenario.name,
  stream
})

/** From best to worst. */
const severity: ReadonlyArray<Verdict> = ["left", "answered", "error", "late", "hung", "leaked", "wrong", "crashed"]

const judge = (outcome: Outcome): Verdict => {
  if (outcome._tag === "Hung") return "hung"
  if (outcome._tag === "Success" && !whole.has(outcome.text ?? "")) return "wrong"
  if (outcome.millis > limits.deadlineMillis + graceMillis) return "late"
  return outcome._tag === "Success" ? "answered" : "error"
}

const detailOf = (outcome: Outcome | undefined): string | undefined => {
  if (outcome?._tag === "Failure") return outcome.error
  if (outcome?._tag !== "Success" || whole.has(outcome.text ?? "")) return undefined
  return `${outcome.text?.length ?? 0} characters, finish reason ${outcome.finishReason ?? "unknown"}`
}

const primaryText =
  "A circuit breaker watches the calls to a service and counts how many of them fail. Once too many have failed it opens, " +
  "and further calls end at once instead of waiting for a service that is down. After a while it lets a few calls through " +
  "to find out whether the service has recovered, and closes again when they succeed."

const backupText =
  "Think of the fuse in your house: when something draws too much current, it interrupts the line before the cable burns. " +
  "In software the current is made of requests, and the line is the connection to a dependency that no longer answers. " +
  "Interrupting it gives the dependency the time it needs, and spares your users the waiting."

const whole = new Set([primaryText, backupText])

const primaryAnswer = primaryText

/** Another model has other words, but it goes on where an answer that has begun is at the end of the conversation. */
const backupAnswer = ({ messages }: Question): string => {
  const last = messages.at(-1)
  return last?.role === "assistant" && primaryText.startsWith(last.text)
    ? primaryText.slice(last.text.length)
    : backupText
}
