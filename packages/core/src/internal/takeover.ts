import * as Prompt from "effect/ai/Prompt"
import type * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import type * as Attempt from "../Attempt.ts"
import * as Decision from "../Decision.ts"
import type * as LlmRequest from "../LlmRequest.ts"
import * as LlmResponse from "../LlmResponse.ts"
import * as LlmUnavailable from "../LlmUnavailable.ts"
import type { Failure, Provider } from "../Provider.ts"
import * as ProviderError from "../ProviderError.ts"
import { type Ask, type Chain, failedAttempt, failureOf, recordFailure, recordRefusal, recordSkip } from "./chain.ts"
import { monotonic } from "./monotonic.ts"
import { announced, onTrial, type Opened } from "./opening.ts"
import { type Break, join, type recovering, type Resumed } from "./recovering.ts"
import * as Recovery from "./recovery.ts"
import * as Seam from "./seam.ts"
import { lacks, takers } from "./takers.ts"
import { within } from "./within.ts"

/** The record of an answer that a step gave after these attempts. */
type Serve = (
  served: LlmResponse.Served,
  step: Provider,
  attempts: ReadonlyArray<Attempt.Attempt>
) => LlmResponse.Served

/** Opens the stream of a step; what it holds belongs to the scope. */
type OpenIn = (scope: Scope.Scope) => Ask<Opened>

/** Creates what finds somebody to finish a broken answer: the steps after the broken one, those before it, and last that one itself. */
export const takeover = (chain: Chain, recovery: "continue" | "restart" | "fail", serve: Serve) => {
  const { hub, minimumTime, share, steps, table } = chain

  const resume = (
    clock: Clock.Clock,
    request: LlmRequest.LlmRequest,
    scope: Scope.Scope,
    openIn: OpenIn,
    { current, emitted, error, round, tokensBefore }: Break
  ): Effect.Effect<Resumed | undefined> => {
    const broken = current.step
    const attempts: Array<Attempt.Attempt> = [failedAttempt(broken, error, monotonic(clock) - current.startedAt)]
    const index = steps.findIndex((step) => step.id === broken.id)
    const continued = recovery === "continue" && speaksFreely(request) ? Seam.continuing(emitted.text) : undefined
    const ways = [...steps.slice(index + 1), ...steps.slice(0, index + 1)].flatMap((step) => [
      ...(continued !== undefined && step.capabilities.prefill === true ? [{ step, by: "continue" as const }] : []),
      { step, by: "restart" as const }
    ])
    const asking = ways.map(({ step }) => step)
    const from = (way: number): Effect.Effect<Resumed | undefined> => {
      const next = ways[way]
      if (next === undefined) {
        if (hub.active()) hub.publish({ _tag: "RecoveryFailed", request: request.id, from: broken.id, error, attempts })
        return Effect.undefined
      }
      const { by, step } = next
      const now = monotonic(clock)
      const remaining = request.expiresAt - now
      const impossible = remaining < minimumTime || request.allowance.left <= 0
      if (impossible || lacks(step, request, undefined) !== undefined) return from(way + 1)
      const seam = by === "continue" && continued !== undefined ? continued.seam : Seam.restarting(emitted.text)
      const asked = by === "continue" && continued !== undefined ? prefilled(request, continued.prefill) : request
      const reason = step.availability(request, now)
      if (reason !== undefined) {
        recordSkip(chain, attempts, request, step, reason)
        return from(way + 1)
      }
      if (hub.active()) {
        hub.publish({ _tag: "AttemptStarted", request: request.id, provider: step.id, model: step.model })
      }
      const stepsLeft = takers(asking, way + 1, request, undefined, now)
      request.allowance.left--
      const until = now + (stepsLeft === 0 ? remaining : remaining * share)
      const joining = (scope: Scope.Scope) =>
        Effect.flatMap(openIn(scope)(step, asked, stepsLeft, until), (opening) =>
          Effect.onExit(join(opening, Recovery.joint(emitted, seam, round, tokensBefore)), (exit) =>
            Exit.isSuccess(exit) && exit.value !== undefined ? Effect.void : opening.close(exit)
          ).pipe(
            Effect.flatMap((joined) =>
              joined === undefined ? Effect.fail(different(step)) : Effect.succeed({ ...joined, opening })
            )
          )
        )
      // What is held back is not yet said: until then the step is bound to its share of the time.
      const attempt = onTrial(scope, (trial) =>
        within(joining(trial), until - now, () => Effect.fail(late(step, until - now)), 0)
      )
      return Effect.matchCauseEffect(attempt, {
        onFailure: (cause) => {
          const failure = failureOf(step, cause)
          if (failure._tag === "LlmUnavailable") {
            recordRefusal(chain, attempts, request, step, failure)
            if (LlmUnavailable.wasRefused(failure)) request.allowance.left++
          } else recordFailure(chain, attempts, request, step, failure, monotonic(clock) - now)
          return from(way + 1)
        },
        onSuccess: (joined) => {
          if (hub.active()) {
            const duration = Duration.millis(monotonic(clock) - now)
            hub.publish({ _tag: "AttemptSucceeded", request: request.id, provider: step.id, duration })
            hub.publish({ _tag: "Recovered", request: request.id, from: broken.id, to: step.id, by, error })
          }
          const before = [...current.served.attempts, ...attempts]
          const amend = (served: LlmResponse.Served) => Recovery.together(current.served, serve(served, step, before))
          const served = amend(announced(joined.opening) ?? LlmResponse.servedBy(step))
          return Effect.succeed({
            current: {
              step,
              startedAt: now,
              served,
              amend,
              opening: joined.opening,
              joint: joined.joint,
              spokeFrom: by === "continue" ? emitted.text.length : 0
            },
            parts: [{ type: "served", served }, ...joined.parts]
          })
        }
      })
    }
    return from(0)
  }

  return (
    clock: Clock.Clock,
    request: LlmRequest.LlmRequest,
    scope: Scope.Scope,
    openIn: OpenIn
  ): Parameters<typeof recovering>[1] => ({
    recoverable: (error): error is ProviderError.ProviderError => recovery !== "fail" && recoverable(table, error),
    resume: (found) => resume(clock, request, scope, openIn, found)
  })
}

// A text that loops or has the wrong structure is spoiled: nobody can put it right by going on with it.
const recoverable = (table: Decision.Table, error: Failure): error is ProviderError.ProviderError =>
  error._tag !== "LlmUnavailable" &&
  !(error._tag === "Timeout" && error.kind === "deadline") &&
  !(error._tag === "APIError" && (error.reason === "Loop" || error.reason === "SchemaMismatch")) &&
  Decision.of(table, error).fallOver === "yes"

// JSON is begun anew and not continued, and so is an answer that has to be a tool call.
const speaksFreely = (request: LlmRequest.LlmRequest): boolean =>
  request.responseFormat.type === "text" &&
  (request.toolChoice === "auto" || request.toolChoice === "none" || request.tools.length === 0)

const different = (step: Provider) =>
  new ProviderError.APIError({
    provider: step.id,
    reason: "InvalidResponse",
    description: "The answer differs from what the reader has seen already"
  })

const late = (step: Provider, millis: number) =>
  new ProviderError.Timeout({ provider: step.id, kind: "deadline", after: Duration.millis(Math.max(0, millis)) })

// The same request, ending in an assistant message that the model is to go on with, and with room for what is still to be said.
const prefilled = (request: LlmRequest.LlmRequest, text: string): LlmRequest.LlmRequest => {
  const { maxOutputTokens } = request.settings
  const left = maxOutputTokens === undefined ? undefined : Math.max(1, maxOutputTokens - Recovery.estimateTokens(text))
  return {
    ...request,
    prompt: Prompt.concat(request.prompt, [{ role: "assistant", content: text }]),
    settings: left === undefined ? request.settings : { ...request.settings, maxOutputTokens: left }
  }
}
