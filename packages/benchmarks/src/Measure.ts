/**
 * Measures CPU time and heap growth so that a noisy, shared machine does not decide.
 *
 * CPU time is that of the process (`process.cpuUsage`, collector and compiler threads included), so another process that takes the
 * core away does not count. What is compared is measured in interleaved rounds, A B B A, and subtracted round by round: a slow minute
 * hits both sides. The median of the rounds is the figure, the extremes show how far to trust it.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"

/** One call, built anew each time, as a program does. How it ends does not matter. */
export type Call = () => Effect.Effect<unknown, unknown>

/** A figure that is the CPU time of one call, minus that of another, by the unit of work in it. */
export interface CpuFigure {
  readonly name: string
  readonly about: string
  readonly goal?: number | undefined
  readonly of: Call
  readonly minus?: Call | undefined
  /** Units of work in one call, such as the chunks of a stream; 1 by default. */
  readonly per?: number | undefined
  /** Runs once, before anything of the group is measured. */
  readonly prepare?: Effect.Effect<void> | undefined
}

/** A figure that is the memory which stays behind for each call: objects and array buffers. */
export interface HeapFigure {
  readonly name: string
  readonly about: string
  readonly goal?: number | undefined
  readonly retainedBy: Call
  /** The slope is taken over once, twice and three times this many calls, fewer in a quick run. */
  readonly calls: number
}

/** A figure that is the longest that one turn of a series keeps everybody else waiting. */
export interface PauseFigure {
  readonly name: string
  readonly about: string
  readonly goal?: number | undefined
  /** Starts the series from its beginning and returns what takes one turn. */
  readonly longestOf: () => () => void
  readonly turns: number
}

export type Figure = CpuFigure | HeapFigure | PauseFigure

/** A measured figure. */
export interface Result {
  readonly figure: Figure
  readonly unit: "µs" | "bytes"
  readonly min: number
  readonly median: number
  readonly max: number
}

/** How long to measure. */
export interface Effort {
  readonly rounds: number
  /** CPU time of one sample: many times the resolution of the clock, and short enough that rounds stay close together. */
  readonly sampleMillis: number
  readonly warmUpMillis: number
  readonly heapRounds: number
  /** The part of a heap figure's calls that are made. */
  readonly heapShare: number
}

/**
 * Says whether a figure keeps its goal: `undefined` without one.
 *
 * CPU is judged by its median. Heap that nothing retains still drifts by a few bytes either way, so it misses only when every round
 * was above; what is really kept, one reference of eight bytes for instance, is there in all of them.
 */
export const keepsGoal = ({ figure, median, min, unit }: Result): boolean | undefined =>
  figure.goal === undefined ? undefined : (unit === "bytes" ? Math.round(min) : median) <= figure.goal

/** Measures figures that belong together, interleaved. */
export const measure = (figures: ReadonlyArray<Figure>, effort: Effort): Effect.Effect<ReadonlyArray<Result>> =>
  Effect.gen(function* () {
    const cpu = yield* measureCpu(
      figures.filter((figure) => "of" in figure),
      effort
    )
    const heap = yield* Effect.forEach(
      figures.filter((figure) => "retainedBy" in figure),
      (figure) => measureHeap(figure, effort)
    )
    const pauses = yield* Effect.forEach(
      figures.filter((figure) => "longestOf" in figure),
      (figure) => measurePause(figure, effort)
    )
    return [...cpu, ...heap, ...pauses]
  })

const measureCpu = (figures: ReadonlyArray<CpuFigure>, effort: Effort): Effect.Effect<ReadonlyArray<Result>> =>
  Effect.gen(function* () {
    const calls = new Set(figures.flatMap(({ minus, of }) => (minus === undefined ? [of] : [of, minus])))
    for (const { prepare } of figures) yield* prepare ?? Effect.void
    const sampleSize = new Map<Call, number>()
    for (const call of calls) sampleSize.set(call, yield* warmUp(call, effort))
    const samples: Array<ReadonlyMap<Call, number>> = []
    for (let round = 0; round < effort.rounds; round++) {
      const sample = new Map<Call, number>()
      // Back and forth, so that nobody always follows the same neighbour or always comes first.
      const order = round % 2 === 0 ? [...sampleSize] : [...sampleSize].toReversed()
      for (const [call, size] of order) sample.set(call, (yield* cpuMicros(call, size)) / size)
      samples.push(sample)
    }
    const microsOf = (call: Call | undefined): ReadonlyArray<number> =>
      samples.map((sample) => (call === undefined ? 0 : (sample.get(call) ?? Number.NaN)))
    return figures.map((figure) => {
      const subtracted = microsOf(figure.minus)
      const micros = microsOf(figure.of).map((total, round) => (total - (subtracted[round] ?? 0)) / (figure.per ?? 1))
      return { figure, unit: "µs", ...spread(micros) }
    })
  })

/** Runs a call until the compiler has settled, and returns how often it fits into one sample. */
const warmUp = (call: Call, effort: Effort): Effect.Effect<number> =>
  Effect.gen(function* () {
    let size = 1
    let spent = 0
    let last = 0
    while (spent < effort.warmUpMillis * 1000) {
      last = yield* cpuMicros(call, size)
      spent += last
      if (last < effort.sampleMillis * 500) size *= 2
    }
    return Math.max(1, Math.round((size * effort.sampleMillis * 1000) / Math.max(1, last)))
  })

const cpuMicros = (call: Call, times: number): Effect.Effect<number> =>
  Effect.suspend(() => {
    // The garbage of the sample before is not on this one's bill.
    globalThis.gc?.({ type: "minor" })
    const before = process.cpuUsage()
    return Effect.map(repeat(call, times), () => {
      const { system, user } = process.cpuUsage(before)
      return system + user
    })
  })

/** Calls that wait for nothing but promises never give way to other fibers, such as a listener to events. */
const callsBetweenYields = 100

/** Makes calls one after another in one fiber. */
const repeat = (call: Call, times: number): Effect.Effect<void> =>
  Effect.suspend(() => {
    let left = times
    return Effect.exit(
      Effect.whileLoop({
        while: () => left-- > 0,
        body: () => (left % callsBetweenYields === 0 ? Effect.andThen(Effect.yieldNow, Effect.suspend(call)) : call()),
        step: () => {}
      })
    ).pipe(
      // A sample that ends early would look fast. Calls that are meant to fail say so with `Effect.flip`.
      Effect.flatMap((exit) => (Exit.isSuccess(exit) ? Effect.void : Effect.die(exit.cause)))
    )
  })

const measureHeap = (figure: HeapFigure, effort: Effort): Effect.Effect<Result> =>
  Effect.gen(function* () {
    const calls = Math.round(figure.calls * effort.heapShare)
    yield* repeat(figure.retainedBy, calls)
    const slopes: Array<number> = []
    for (let round = 0; round < effort.heapRounds; round++) {
      const points: Array<readonly [number, number]> = []
      for (const factor of [1, 2, 3]) {
        const before = yield* heapUsed
        yield* repeat(figure.retainedBy, calls * factor)
        points.push([calls * factor, (yield* heapUsed) - before])
      }
      slopes.push(slope(points))
    }
    return { figure, unit: "bytes", ...spread(slopes) }
  })

const measurePause = (figure: PauseFigure, effort: Effort): Effect.Effect<Result> =>
  Effect.gen(function* () {
    const longest: Array<number> = []
    for (let round = 0; round < effort.heapRounds; round++) {
      const turn = figure.longestOf()
      yield* heapUsed
      let most = 0
      for (let left = figure.turns; left > 0; left--) {
        const switches = process.resourceUsage().involuntaryContextSwitches
        const start = performance.now()
        turn()
        const took = performance.now() - start
        // A turn in which the system gave the core to somebody else tells nothing.
        if (took > most && process.resourceUsage().involuntaryContextSwitches === switches) most = took
        if (left % callsBetweenYields === 0) yield* Effect.yieldNow
      }
      longest.push(most * 1000)
    }
    return { figure, unit: "µs", ...spread(longest) }
  })

// Finalizers and weak references take a turn of the event loop between collections.
const heapUsed: Effect.Effect<number> = Effect.gen(function* () {
  const gc = globalThis.gc
  if (gc === undefined) return yield* Effect.die(new Error("unreachable: main asks for --expose-gc"))
  for (let pass = 0; pass < 4; pass++) {
    yield* Effect.sleep("1 millis")
    gc()
  }
  const { arrayBuffers, heapUsed } = process.memoryUsage()
  return heapUsed + arrayBuffers
})

// Least squares: what a constant cache adds moves the line up and leaves its slope alone.
const slope = (points: ReadonlyArray<readonly [number, number]>): number => {
  const mean = (values: ReadonlyArray<number>) => values.reduce((sum, value) => sum + value, 0) / values.length
  const meanX = mean(points.map(([x]) => x))
  const meanY = mean(points.map(([, y]) => y))
  return mean(points.map(([x, y]) => (x - meanX) * (y - meanY))) / mean(points.map(([x]) => (x - meanX) ** 2))
}

const spread = (values: ReadonlyArray<number>): Pick<Result, "min" | "median" | "max"> => {
  const sorted = values.toSorted((left, right) => left - right)
  const at = (index: number) => sorted[index] ?? Number.NaN
  const middle = (sorted.length - 1) / 2
  return {
    min: at(0),
    median: (at(Math.floor(middle)) + at(Math.ceil(middle))) / 2,
    max: at(sorted.length - 1)
  }
}
