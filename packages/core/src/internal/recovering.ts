import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import type { LlmStreamPart, Served } from "../LlmResponse.ts"
import type { Failure, Provider } from "../Provider.ts"
import * as ProviderError from "../ProviderError.ts"
import type { Opened } from "./opening.ts"
import * as Recovery from "./recovery.ts"

type Parts = Arr.NonEmptyReadonlyArray<LlmStreamPart>

/** A stream that is being read: who serves it, and, when it goes on with another one's answer, how the two are joined. */
export interface Current {
  readonly step: Provider
  /** The monotonic millisecond at which this step was asked. */
  readonly startedAt: number
  readonly served: Served
  /** Completes a later record of the same step with what happened before it was asked. */
  readonly amend: (served: Served) => Served
  readonly opening: Opened
  readonly joint: Recovery.Joint | undefined
  /** Where in the text the words of this step begin: it was paid for all of them, also for those that were held back. */
  readonly spokeFrom: number
}

/** A break in the middle of an answer. */
export interface Break {
  readonly error: ProviderError.ProviderError
  readonly emitted: Recovery.Emitted
  readonly current: Current
  readonly round: number
  readonly tokensBefore: number
}

/** Who goes on with it, and the first of what the reader has not seen. */
export interface Resumed {
  readonly current: Current
  readonly parts: Parts
}

/** Every break may be followed by another one. An answer that broke this often is not going to be finished. */
const maxRounds = 4

/**
 * Reads a stream and, when it breaks, goes on with the one that `resume` finds. When it finds none, the error of the first break is the
 * one that the reader sees.
 */
export const recovering = (
  first: Current,
  options: {
    readonly recoverable: (error: Failure) => error is ProviderError.ProviderError
    readonly resume: (found: Break) => Effect.Effect<Resumed | undefined>
  }
): Pull.Pull<Parts, Failure> => {
  let current = first
  let emitted = Recovery.nothing
  let started = false
  let round = 0
  let tokensBefore = 0
  let firstCause: Cause.Cause<Failure | Cause.Done> | undefined

  const emit = (parts: Parts): Parts => {
    for (const part of parts) emitted = Recovery.see(emitted, part)
    return parts
  }

  const next: Pull.Pull<Parts, Failure> = Effect.suspend((): Pull.Pull<Parts, Failure> => {
    if (!started) {
      started = true
      return Effect.succeed(emit(first.opening.head))
    }
    return Effect.matchCauseEffect(current.opening.rest, { onSuccess: arrived, onFailure: stopped })
  })

  const arrived = (parts: Parts): Pull.Pull<Parts, Failure> => {
    const later = parts.find((part) => part.type === "served")
    if (later === undefined) return said(parts)
    // A policy below found out at the end that the answer is less than it seemed.
    const served = current.amend(later.served)
    current = { ...current, served }
    const rest = parts.filter((part) => part.type !== "served")
    const record: LlmStreamPart = { type: "served", served }
    return Arr.isReadonlyArrayNonEmpty(rest)
      ? Effect.map(said(rest), (out) => Arr.prepend(out, record))
      : Effect.succeed([record])
  }

  const said = (parts: Parts): Pull.Pull<Parts, Failure> => {
    const { joint } = current
    if (joint === undefined) return Effect.succeed(emit(parts))
    const passed = Recovery.pass(joint, parts)
    if (passed === undefined) return Effect.die("unreachable: a stream is resumed after its seam is passed")
    current = { ...current, joint: passed[0] }
    return Arr.isReadonlyArrayNonEmpty(passed[1]) ? Effect.succeed(emit(passed[1])) : next
  }

  const stopped = (found: Cause.Cause<Failure | Cause.Done>): Pull.Pull<Parts, Failure> => {
    // What dies in the middle is a failure of the step, as it is before the first content.
    const died = !Cause.hasFails(found) && Cause.hasDies(found)
    const cause = died ? Cause.fail<Failure>(ProviderError.fromDefect(current.step.id, found)) : found
    const error = cause.reasons.find(Cause.isFailReason)?.error
    if (error === undefined || Cause.isDone(error)) return Effect.failCause(cause)
    if (!options.recoverable(error) || emitted.beyondText || round === maxRounds) {
      return Effect.failCause(firstCause ?? cause)
    }
    round++
    firstCause ??= cause
    tokensBefore += Recovery.estimateTokens(emitted.text.slice(current.spokeFrom))
    const broken: Break = { error, emitted, current, round, tokensBefore }
    return Effect.flatMap(
      Effect.andThen(current.opening.close(Exit.fail(error)), options.resume(broken)),
      (resumed): Pull.Pull<Parts, Failure> => {
        if (resumed === undefined) return Effect.failCause(firstCause ?? cause)
        current = resumed.current
        return Effect.succeed(emit(resumed.parts))
      }
    )
  }

  return next
}

/**
 * Reads a newly opened stream up to where it says something that the reader has not seen, or `undefined` when it says something else.
 */
export const join = (
  opening: Opened,
  joint: Recovery.Joint
): Effect.Effect<{ readonly joint: Recovery.Joint; readonly parts: Parts } | undefined, Failure> => {
  const read = (joint: Recovery.Joint, parts: Parts): ReturnType<typeof join> => {
    const passed = Recovery.pass(joint, parts)
    if (passed === undefined) return Effect.undefined
    const [after, out] = passed
    if (Arr.isReadonlyArrayNonEmpty(out)) return Effect.succeed({ joint: after, parts: out })
    return Effect.flatMap(
      Pull.catchDone(opening.rest, () => Effect.undefined),
      (more) => (more === undefined ? Effect.undefined : read(after, more))
    )
  }
  return read(joint, opening.head)
}
