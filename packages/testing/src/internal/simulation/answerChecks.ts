import * as Decision from "@llm-resilience/core/Decision"
import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type { Failure } from "@llm-resilience/core/Provider"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import type * as Exit from "effect/Exit"
import { isReply, lengthOf, questionOf } from "./knowledge.ts"
import { deadlineOf, epsilon, type Live, type Run } from "./live.ts"
import { nameOf } from "./plan.ts"

/** What callers and readers get. */
export interface AnswerChecks {
  readonly part: (live: Live, part: LlmResponse.LlmStreamPart) => void
  readonly ended: (live: Live, exit: Exit.Exit<LlmResponse.LlmResponse | void, Failure>) => void
  /** Whether a text, or calls of tools, are the whole answer to a request. */
  readonly answer: (live: Live, text: string, toolCalls: ReadonlyArray<string>) => void
  /** What a model said when it was asked, which is what may be stored. */
  readonly said: (text: string) => void
}

export const make = (run: Run): AnswerChecks => {
  const { counts, plan, time, trace, violate } = run
  const given = new Set<string>()
  // Many requests get the same answer.
  const right = new Map<string, string>()
  // Cut short, and ended by a model that was to go on and said nothing.
  const believed = new Set<string>()

  const checkText = (identity: string, text: string): void => {
    const [about = "", ...words] = text.split(" ")
    if (about !== identity) {
      violate("an answer is the answer to its question", `"${identity}" was answered with "${about}"`)
    }
    const wrong = words.findIndex((word, index) => Number.parseInt(word, 10) !== index + 1)
    if (wrong !== -1) violate("nothing is repeated and nothing missing", `"${text}"`)
    if (words.length !== lengthOf(identity) - 1 && !believed.has(text)) {
      violate("a cut answer is never a shorter success", `"${text}" of ${lengthOf(identity)} words`)
    }
  }

  const answer = (of: Live, text: string, toolCalls: ReadonlyArray<string>): void => {
    const { identity, request } = of
    const { wanted } = questionOf(request)
    if (wanted === "tool") {
      counts.toolCalls++
      if (text !== "" || toolCalls.length !== 1 || toolCalls[0] !== identity) {
        violate("a call of a tool is whole, and is made once", `"${identity}": ${toolCalls.join(", ")} "${text}"`)
      }
      return
    }
    if (toolCalls.length > 0) violate("an answer is the answer to its question", `"${identity}" calls a tool`)
    if (wanted === "json") {
      counts.json++
      if (!isReply(text, identity)) violate("an answer in JSON has the shape that was asked for", text)
      return
    }
    if (right.get(text) === identity) return
    if (of.calls.some(({ silent }) => silent)) believed.add(text)
    checkText(identity, text)
    right.set(text, identity)
  }

  // The words of a stream come one by one, in parts that are one or more of them.
  const checkWord = (of: Live, delta: string): void => {
    if (of.words === 0) return checkFirst(of, delta)
    for (const word of delta.trimStart().split(" ")) {
      if (Number.parseInt(word, 10) !== of.words++) violate("nothing is repeated and nothing missing", `"${of.text}"`)
    }
  }
  const checkFirst = (of: Live, delta: string): void => {
    const [identity = "", ...rest] = delta.split(" ")
    of.words = 1
    if (identity !== of.identity) violate("an answer is the answer to its question", delta)
    if (rest.length > 0) checkWord(of, rest.join(" "))
  }

  const part = (of: Live, part: LlmResponse.LlmStreamPart): void => {
    const now = time.now()
    if (of.finished > 0) violate("a stream ends once", `${part.type} came after the end`)
    const until = deadlineOf(run, of)
    if (until !== undefined && now > until + epsilon && now > of.readAt + epsilon) {
      violate("a deadline is kept", `${part.type} came ${now - until} ms late`)
    }
    if (!of.committed && LlmResponse.isContent(part)) {
      of.committed = true
      if (of.served === undefined) violate("who serves is said before the first content", part.type)
    }
    switch (part.type) {
      case "served":
        of.served = part.served
        return
      case "finish":
        of.finished++
        answer(of, of.text, of.toolCalls)
        return
      case "tool-params-delta":
        of.params += part.delta
        return
      case "tool-call":
        of.toolCalls.push(aboutOf(part.params))
        if (of.params !== JSON.stringify(part.params)) violate("a call of a tool is whole, and is made once", of.params)
        return
      case "text-delta":
        of.text += part.delta
        if (questionOf(of.request).wanted === "text") checkWord(of, part.delta)
        return
      default:
    }
  }

  const checkCached = (of: Live, served: LlmResponse.Served, text: string): void => {
    counts.cached++
    const { cache } = plan
    const { identity, request } = of
    const { wanted } = questionOf(request)
    if (cache === undefined || !of.request.mayCache) return violate("no cache unless asked for", identity)
    if (wanted === "tool") violate("a call of a tool is not served again", identity)
    // Of an answer that several wrote, or that was taken out of its fence, no model knows the whole.
    if (wanted === "text" && !given.has(text) && served.contributors === undefined) {
      violate("the cache serves what was answered", text)
    }
    if (served.notice?._tag !== "Cached") violate("a cached answer says so", identity)
    if (served.age !== undefined && Duration.toMillis(served.age) >= cache.stale) {
      violate("what expired is not served", `${identity} after ${Duration.toMillis(served.age)} ms`)
    }
    const { match = "exact" } = served
    if (match !== "exact") counts.similar++
    const verbatim = of.request.tools.length > 0 || of.request.responseFormat.type === "json"
    if (closeness[match] > (verbatim ? 0 : closeness[cache.match])) {
      violate("a question is as close as it has to be", `${identity} was answered by one that is ${match}`)
    }
  }

  const checkServed = (of: Live, served: LlmResponse.Served, text: string): void => {
    if (served.from === "cache") return checkCached(of, served, text)
    const by = of.calls.filter((call) => nameOf(call.step) === served.provider)
    // Who finished a broken answer may have had nothing left to say.
    const said = by.length > 0 && (served.contributors !== undefined || by.some((call) => call.said !== ""))
    if (!said) violate("who is named as the author wrote it", `${served.provider} said nothing`)
    const failed = served.attempts.filter((attempt) => attempt._tag === "Failed").length
    const fell = of.asks.reduce((sum, asks) => sum + asks, 0)
    if (failed >= fell + 1) violate("attempts are on the record once", `${failed} failed, ${fell} were made`)
  }

  const checkFailure = (of: Live, error: Failure): void => {
    if (error._tag === "LlmUnavailable") {
      const missing = plan.steps.findIndex((_, step) =>
        error.attempts.every(({ provider }) => provider !== nameOf(step))
      )
      const nested = plan.steps.some(
        ({ faults, outages }) => "Unavailable" in faults || outages.some((o) => o.as === "Unavailable")
      )
      if (missing !== -1 && !nested) violate("every step is on the record", `${nameOf(missing)} is missing`)
      return
    }
    const late = error._tag === "Timeout" && error.kind === "deadline"
    if (!of.committed && !late && Decision.of(Decision.defaults, error).fallOver !== "no") {
      violate("who may fall over does", `${error.provider} failed with ${ProviderError.kind(error)}`)
    }
  }

  const ended = (of: Live, exit: Exit.Exit<LlmResponse.LlmResponse | void, Failure>): void => {
    const now = time.now()
    trace.add(now, exit._tag === "Success" ? "answered" : "ended", of.id)
    if (of.endedAt !== undefined) return violate("one answer or one error", "it ended twice")
    of.endedAt = now
    const until = deadlineOf(run, of)
    // A reader who has enough waits for the cleanup, as everybody who leaves.
    const stopped = exit._tag === "Success" && exit.value === undefined && of.finished === 0
    // To be accepted by the queue comes on top of it.
    const handedIn = exit._tag === "Failure" && of.asked.mayWait ? 2 * (plan.replicas?.travel ?? 0) : 0
    if (!of.left && !stopped && until !== undefined && now > Math.max(until + handedIn, of.readAt) + epsilon) {
      violate("a deadline is kept", `it ended ${now - until} ms late`)
    }
    // What is told to stop may need the rest of this moment to hear it.
    if (of.calls.some((call) => !call.leaving)) {
      time.at(now + epsilon, () => {
        const running = of.calls.find((call) => !call.leaving)
        if (running !== undefined) violate("nothing goes on after the end", `${nameOf(running.step)} is still asked`)
      })
    }
    if (exit._tag === "Success") {
      if (exit.value === undefined) {
        if (of.finished !== 1 && of.asked.stopsAfter === undefined) {
          violate("a stream ends with its end", `${of.finished} finish parts after "${of.text}"`)
        }
        if (of.served !== undefined && of.finished === 1) checkServed(of, of.served, of.text)
      } else {
        const { served, text, toolCalls } = exit.value
        of.served = served
        answer(
          of,
          text,
          toolCalls.map(({ params }) => aboutOf(params))
        )
        checkServed(of, served, text)
      }
      counts.answered++
      return
    }
    const error = exit.cause.reasons.find(Cause.isFailReason)?.error
    if (error !== undefined) {
      counts.failed++
      checkFailure(of, error)
    } else if (Cause.hasDies(exit.cause)) violate("no defect leaves the chain", Cause.pretty(exit.cause))
    else if (of.left) counts.left++
    else violate("one answer or one error", "it was interrupted by nobody")
  }

  return {
    part,
    ended,
    answer,
    said: (text) => {
      if (plan.cache !== undefined) given.add(text)
    }
  }
}

const closeness = { exact: 0, canonical: 1, similar: 2 } as const

const aboutOf = (params: unknown): string =>
  typeof params === "object" && params !== null && "about" in params ? String(params.about) : JSON.stringify(params)
