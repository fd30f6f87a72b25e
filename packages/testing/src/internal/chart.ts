import type { DrillReport } from "../DrillReport.ts"
import type { Outlook } from "../Forecast.ts"

const colors = ["#0b6e4f", "#c8553d", "#2d6cdf", "#8a5fbf", "#b8860b", "#4f5d75"]
const width = 860
const left = 70
const right = 20

/** Draws what users will see: the share of answered requests for each day, and the latencies of each scenario. */
export const chart = (outlooks: ReadonlyArray<Outlook>): string => {
  const legend = outlooks.map(({ name }, index) => {
    const y = 46 + 20 * index
    return [
      `<rect x="${left}" y="${y - 10}" width="12" height="12" fill="${colorOf(index)}"/>`,
      text(left + 20, y, name)
    ].join("")
  })
  const top = 66 + 20 * outlooks.length
  const days = daily(outlooks, top)
  const bars = latencies(outlooks, top + 250)
  const height = top + 270 + bars.height
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="13">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    `<text x="${left}" y="22" font-size="16" font-weight="600" fill="#222">Requests answered, day by day</text>`,
    ...legend,
    days,
    bars.svg,
    "</svg>",
    ""
  ].join("\n")
}

const colorOf = (index: number): string => colors[index % colors.length] ?? "#222222"

const daily = (outlooks: ReadonlyArray<Outlook>, top: number): string => {
  const height = 190
  const worst = Math.min(0.999, ...outlooks.flatMap(({ daily }) => daily))
  const low = Math.floor(worst * 100) / 100
  const days = Math.max(1, ...outlooks.map(({ daily }) => daily.length))
  const x = (index: number) => left + ((index + 0.5) * (width - left - right)) / days
  const y = (share: number) => top + height * (1 - (share - low) / (1 - low))
  const marks = [low, (low + 1) / 2, 1].map((share) =>
    [
      `<line x1="${left}" y1="${y(share)}" x2="${width - right}" y2="${y(share)}" stroke="#dddddd"/>`,
      text(left - 8, y(share) + 4, `${(100 * share).toFixed(1)} %`, "end")
    ].join("")
  )
  const lines = outlooks.map(({ daily }, index) => {
    const points = daily.map((share, at) => `${x(at).toFixed(1)},${y(share).toFixed(1)}`).join(" ")
    const dash = ["", "7 4", "2 3"][Math.floor(index / 2) % 3] ?? ""
    return `<polyline points="${points}" fill="none" stroke="${colorOf(index)}" stroke-width="2.2" stroke-dasharray="${dash}"/>`
  })
  const every = Math.max(1, Math.ceil(days / 10))
  const numbers = Array.from({ length: days }, (_, at) => at)
    .filter((at) => at % every === 0)
    .map((at) => text(x(at), top + height + 20, `day ${at + 1}`, "middle"))
  return [...marks, ...lines, ...numbers].join("\n")
}

const latencies = (
  outlooks: ReadonlyArray<Outlook>,
  top: number
): { readonly svg: string; readonly height: number } => {
  const longest = Math.max(1, ...outlooks.map(({ latency }) => latency.p99))
  const scale = (width - left - right - 80) / longest
  const rows = (["p50", "p95", "p99"] as const).flatMap((name, group) =>
    outlooks.map(({ latency }, index) => {
      const y = top + 14 + group * (outlooks.length * 18 + 14) + index * 18
      const length = Math.max(1, latency[name] * scale)
      return [
        index === 0 ? text(left - 8, y + 12, name, "end") : "",
        `<rect x="${left}" y="${y}" width="${length.toFixed(1)}" height="14" fill="${colorOf(index)}"/>`,
        text(left + length + 6, y + 12, `${(latency[name] / 1000).toFixed(1)} s`)
      ].join("")
    })
  )
  const title = `<text x="${left}" y="${top}" font-size="16" font-weight="600" fill="#222">Time until the answer</text>`
  return { svg: [title, ...rows].join("\n"), height: 3 * (outlooks.length * 18 + 14) }
}

/** Draws a drill: a bar for each second, made of those who answered, and a mark for each thing that was done. */
export const picture = (report: DrillReport): string => {
  const { seconds, timeline } = report
  const names = [...new Set(seconds.flatMap((second) => Object.keys(second)))].toSorted(
    (one, other) => Number(one === "failed") - Number(other === "failed")
  )
  const most = Math.max(1, ...seconds.map((second) => Object.values(second).reduce((sum, count) => sum + count, 0)))
  const marks = timeline.filter(({ text }) => !/ is (un|degr)?(healthy|aded)|HalfOpen -> Open|-> HalfOpen/.test(text))
  const top = 70
  const bottom = top + 180
  const wide = (width - left - right) / Math.max(1, seconds.length)
  const high = 180 / most
  const fill = (name: string) => (name === "failed" ? "#b00020" : colorOf(names.indexOf(name)))
  const bars = seconds.flatMap((second, at) => {
    let y = bottom
    return names.flatMap((name) => {
      const height = (second[name] ?? 0) * high
      y -= height
      return height === 0
        ? []
        : [
            `<rect x="${(left + at * wide).toFixed(1)}" y="${y.toFixed(1)}" width="${(wide * 0.86).toFixed(1)}" height="${height.toFixed(1)}" fill="${fill(name)}"/>`
          ]
    })
  })
  const legend = names.map((name, index) =>
    [
      `<rect x="${left + 150 * index}" y="34" width="12" height="12" fill="${fill(name)}"/>`,
      text(left + 20 + 150 * index, 45, name)
    ].join("")
  )
  const lines = marks.map(({ at, text: words }, index) => {
    const x = left + (at / 1000) * wide
    const y = bottom + 44 + 18 * index
    return [
      `<line x1="${x.toFixed(1)}" y1="${top}" x2="${x.toFixed(1)}" y2="${y - 4}" stroke="#999999" stroke-dasharray="2 3"/>`,
      text(
        x + (x > width - 330 ? -5 : 5),
        y,
        `${(at / 1000).toFixed(0)} s: ${words}`,
        x > width - 330 ? "end" : "start"
      )
    ].join("")
  })
  const every = Math.max(1, Math.ceil(seconds.length / 60)) * 10
  const numbers = seconds.flatMap((_, at) =>
    at % every === 0 && at < seconds.length - 5 ? [text(left + at * wide, bottom + 18, `${at} s`)] : []
  )
  const height = bottom + 60 + 18 * marks.length
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="13">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    `<text x="${left}" y="22" font-size="16" font-weight="600" fill="#222">${escaped(report.name)}: who answered, second by second</text>`,
    ...legend,
    ...bars,
    ...numbers,
    ...lines,
    "</svg>",
    ""
  ].join("\n")
}

const text = (x: number, y: number, words: string, anchor = "start"): string =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}" fill="#333">${escaped(words)}</text>`

const escaped = (words: string): string =>
  words.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
