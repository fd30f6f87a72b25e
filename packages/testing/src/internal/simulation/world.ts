import type { LlmRequest } from "@llm-resilience/core/LlmRequest"
import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as LlmUnavailable from "@llm-resilience/core/LlmUnavailable"
import * as Provider from "@llm-resilience/core/Provider"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { VirtualTime } from "../../VirtualTime.ts"
import { dice, type Dice } from "../dice.ts"
import { answerOf, continued, identityOf, isContinuation, questionOf } from "./knowledge.ts"
import { type FaultKind, faults, nameOf, onGrid, type Plan, type Step } from "./plan.ts"

/** A request, as it goes through the chain: the simulation writes on it which one it is. */
export interface Marked extends LlmRequest {
  readonly simulated?: number
}

/** A call of a model, as the model sees it. */
export interface Call {
  readonly step: number
  readonly request: number | undefined
  readonly startedAt: number
  readonly expiresAt: number
  fault: FaultKind | "none" | "request"
  /** What it said so far. */
  said: string
  /** It was to go on with an answer and said nothing: it is believed to have had nothing to add. */
  silent: boolean
  /** Its caller left, or its answer is complete: it may take a moment to clean up. */
  leaving: boolean
  ended: boolean
}

export interface World {
  readonly providers: ReadonlyArray<Provider.Provider>
  /** From now on nothing goes wrong any more. */
  readonly heal: () => void
}

/** The models of a plan: each call is drawn from the seed by the number of its request, whatever else happens. */
export const make = (
  plan: Plan,
  time: VirtualTime,
  seen: { readonly started: (call: Call) => void; readonly ended: (call: Call) => void }
): World => {
  let healed = false
  const counts = new Map<number, number>()

  const begin = (step: number, request: Marked): { readonly call: Call; readonly d: Dice; readonly nth: number } => {
    const index = request.simulated ?? -1
    const key = index * 8 + step
    const nth = counts.get(key) ?? 0
    counts.set(key, nth + 1)
    const call: Call = {
      step,
      request: request.simulated,
      startedAt: time.now(),
      expiresAt: request.expiresAt,
      fault: "none",
      said: "",
      silent: false,
      leaving: false,
      ended: false
    }
    seen.started(call)
    return { call, d: dice(plan.seed, 400, step, index, nth), nth }
  }

  const end = (call: Call): void => {
    call.leaving = true
    if (call.ended) return
    call.ended = true
    seen.ended(call)
  }

  const providers = plan.steps.map((model, step) => {
    const id = nameOf(step)
    const calmLatency = Math.min(model.latency, wellWithin(plan, model))
    const rates = faults.flatMap((fault) => {
      const rate = model.faults[fault] ?? 0
      return rate > 0 ? [{ fault, rate }] : []
    })

    const faultOf = (d: Dice): FaultKind | undefined => {
      let roll = d.next()
      if (healed) return undefined
      const now = time.now()
      for (const { as, from, to } of model.outages) if (from <= now && now < to) return as
      for (const { fault, rate } of rates) if ((roll -= rate) < 0) return fault
      return undefined
    }

    const latencyOf = (d: Dice): number => {
      if (healed) return calmLatency
      const long = d.chance(model.spread / 10) ? 10 : 1
      return onGrid(plan, model.latency * long * d.between(1 - model.spread / 2, 1 + model.spread))
    }

    // JSON that is none: with a fence around it, without a field, without its end.
    const spoiled = (words: ReadonlyArray<string>, request: Marked, nth: number): ReadonlyArray<string> => {
      if (healed || model.badJson === 0 || request.responseFormat.type === "text") return words
      const d = dice(plan.seed, 401, step, request.simulated ?? -1, nth)
      if (!d.chance(model.badJson)) return words
      return d.pick<ReadonlyArray<string>>([
        ["```json\n", ...words, "\n```"],
        [`{"about":"${identityOf(request)}"}`],
        [...words.slice(0, -1), (words.at(-1) ?? "").slice(0, -1)]
      ])
    }

    // What waits in an interrupted call is stopped at once; what cleans up behind it takes its time.
    const stopping = (call: Call): Effect.Effect<void> => {
      call.leaving = true
      return model.cleanup === 0 || call.ended
        ? Effect.sync(() => end(call))
        : Effect.ensuring(
            Effect.sleep(model.cleanup),
            Effect.sync(() => end(call))
          )
    }
    const after = <A, E>(millis: number, then: () => Effect.Effect<A, E>): Effect.Effect<A, E> =>
      millis <= 0
        ? Effect.suspend(then)
        : Effect.callback<A, E>((resume) => Effect.sync(time.at(time.now() + millis, () => resume(then()))))

    return Provider.make({
      id,
      model: `${id}-1`,
      capabilities: {
        ...(model.contextWindow === undefined ? {} : { contextWindow: model.contextWindow }),
        prefill: model.prefill !== "no"
      },
      generate: (request) =>
        Effect.callback((resume) => {
          const { call, d, nth } = begin(step, request)
          const refusal = refusalOf(model, id, request)
          const fault = refusal === undefined ? faultOf(d) : undefined
          call.fault = refusal === undefined ? (fault ?? "none") : "request"
          if (fault === "Hang" || fault === "Stall") return Effect.suspend(() => stopping(call))
          const answer = (): Effect.Effect<Provider.Answer, Provider.Failure> => {
            if (refusal !== undefined) return Effect.fail(refusal)
            if (fault !== undefined && fault !== "EmptyOutput") return failing(fault, id, d)
            const known = answerOf(plan, step, request)
            const words = fault === "EmptyOutput" ? [" "] : spoiled(known.words, request, nth)
            const text = words === known.words ? known.text : words.join("")
            call.said = text
            const isCall = fault === undefined && questionOf(request).wanted === "tool"
            return Effect.succeed({ content: isCall ? [toolCall(text), called] : LlmResponse.textContent(text) })
          }
          const conclude = (): void => {
            const answered = answer()
            end(call)
            resume(answered)
          }
          const latency = latencyOf(d)
          if (latency <= 0) return conclude()
          const cancel = time.at(time.now() + latency, conclude)
          return Effect.suspend(() => {
            cancel()
            return stopping(call)
          })
        }),
      stream: (request) =>
        Stream.unwrap(
          Effect.map(
            Effect.acquireRelease(
              Effect.sync(() => begin(step, request)),
              ({ call }) => stopping(call)
            ),
            ({ call, d, nth }) => {
              const refusal = refusalOf(model, id, request)
              const fault = refusal === undefined ? faultOf(d) : undefined
              call.fault = refusal === undefined ? (fault ?? "none") : "request"
              call.silent = fault === "EmptyOutput" && isContinuation(request)
              const words = spoiled(continued(plan, step, request), request, nth)
              const last = fault === "Cut" || fault === "Stall" ? d.int(0, words.length) : words.length
              const apart = model.tokenEvery > 0 && !(fault === "EmptyOutput")
              const latency = latencyOf(d)
              const isCall = fault !== "EmptyOutput" && questionOf(request).wanted === "tool"
              let at = -1
              const say = (word: string): LlmResponse.LlmStreamPart => {
                call.said += word
                return isCall
                  ? { type: "tool-params-delta", id: "0", delta: JSON.stringify({ about: word }) }
                  : { type: "text-delta", id: "0", delta: word }
              }
              const ending = (): Effect.Effect<Parts, Provider.Failure | Cause.Done> => {
                if (fault === "Stall") return Effect.never
                // What is over needs no cleaning up.
                end(call)
                if (fault === "Cut") return Effect.fail(errorOf("StreamCut", id))
                if (fault === "NoFinish") return Cause.done()
                return Effect.succeed(
                  isCall
                    ? [{ type: "tool-params-end", id: "0" }, toolCall(call.said), called]
                    : [{ type: "text-end", id: "0" }, finish]
                )
              }
              const pull: Effect.Effect<Parts, Provider.Failure | Cause.Done> = Effect.suspend(() => {
                at++
                if (at === 0) {
                  if (fault === "Hang") return Effect.never
                  const over = fault !== undefined && !["Cut", "Stall", "NoFinish", "EmptyOutput"].includes(fault)
                  if (refusal !== undefined || over) {
                    return after(latency, () => {
                      end(call)
                      return refusal === undefined ? failing(fault ?? "Network", id, d) : Effect.fail(refusal)
                    })
                  }
                  return after(latency, () =>
                    Effect.succeed<Parts>([
                      isCall ? { type: "tool-params-start", id: "0", name: "search" } : { type: "text-start", id: "0" }
                    ])
                  )
                }
                if (fault === "EmptyOutput") return ending()
                if (!apart) {
                  if (at > 1) return ending()
                  const [first, ...rest] = words.slice(0, last).map(say)
                  return first === undefined ? ending() : Effect.succeed<Parts>([first, ...rest])
                }
                const word = at <= last ? words[at - 1] : undefined
                return word === undefined
                  ? ending()
                  : after(at === 1 ? 0 : model.tokenEvery, () => Effect.succeed<Parts>([say(word)]))
              })
              return Stream.fromPull(Effect.succeed(pull))
            }
          )
        )
    })
  })
  return {
    providers,
    heal: () => {
      healed = true
    }
  }
}

/** A latency that no timeout and no rule about slow calls has anything against. */
const wellWithin = (plan: Plan, { breaker, hedge, timeouts }: Step): number => {
  const slow = breaker === undefined || breaker.trip._tag === "Consecutive" ? undefined : breaker.trip.slowAfter
  const { attempt, firstToken } = timeouts
  const limits = [slow, attempt, firstToken, breaker?.probeLease, hedge, plan.chain.hedge, plan.health?.timeout]
  return Math.min(2000, ...limits.map((limit) => limit ?? Infinity)) / 4
}

type Parts = readonly [LlmResponse.LlmStreamPart, ...Array<LlmResponse.LlmStreamPart>]

const finish = { type: "finish", reason: "stop", usage: LlmResponse.unknownUsage } as const
const called = { type: "finish", reason: "tool-calls", usage: LlmResponse.unknownUsage } as const
const toolCall = (about: string) => ({ type: "tool-call", id: "0", name: "search", params: { about } }) as const

// Errors are the same each time, and to check their fields would cost more than all the rest of a call.
const errors = new Map<string, ProviderError.ProviderError>()

const known = (name: string, make: () => ProviderError.ProviderError): ProviderError.ProviderError => {
  const error = errors.get(name) ?? make()
  errors.set(name, error)
  return error
}

const errorOf = (reason: ProviderError.Reason, provider: string, after?: number): ProviderError.ProviderError =>
  known(`${reason} ${provider} ${after}`, () => {
    const retryAfter = after === undefined ? {} : { retryAfter: Duration.millis(after) }
    return new ProviderError.APIError({ provider, reason, description: "simulated", ...retryAfter })
  })

const rateLimited = (provider: string, after?: number): ProviderError.ProviderError =>
  known(`limited ${provider} ${after}`, () => {
    const retryAfter = Option.map(Option.fromUndefinedOr(after), Duration.millis)
    return new ProviderError.RateLimited({ provider, retryAfter })
  })

const failing = (fault: FaultKind, provider: string, d: Dice): Effect.Effect<never, Provider.Failure> => {
  switch (fault) {
    case "RateLimited":
      return Effect.fail(rateLimited(provider))
    case "RateLimitedFor":
      return Effect.fail(rateLimited(provider, d.pick([50, 700, 2000, 8000, 90_000])))
    case "Overloaded":
      return Effect.fail(errorOf(fault, provider, d.chance(0.3) ? d.pick([300, 3000]) : undefined))
    case "Unavailable":
      return Effect.fail(LlmUnavailable.make([]))
    case "Defect":
      return Effect.die("a defect of the model's adapter")
    case "Cut":
    case "NoFinish":
      return Effect.fail(errorOf("StreamCut", provider))
    case "Hang":
    case "Stall":
      return Effect.never
    default:
      return Effect.fail(errorOf(fault, provider))
  }
}

/** Requests that no model, or only some, will answer whatever the weather. */
const refusalOf = (model: Step, id: string, request: LlmRequest): ProviderError.ProviderError | undefined => {
  switch (questionOf(request).kind) {
    case "invalid":
      return errorOf("InvalidRequest", id)
    case "refused":
      return errorOf("ContentPolicy", id)
    case "tooLong":
      return model.contextWindow === undefined || model.contextWindow < 100_000
        ? errorOf("ContextLengthExceeded", id)
        : undefined
    default:
      return undefined
  }
}
