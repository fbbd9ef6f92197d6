// The page's words. Names of things that the API, the headers and the metrics use stay as they are in both languages.

const EN = {
  title: "PD console", skip: "To the content", views: "Views", language: "Language",
  map: "Map", requests: "Requests", try: "Try it", now: "Now",
  forgetKey: "Forget key", keyTitle: "A key is needed", keyLabel: "API key", keyUse: "Use it",
  keyText: "This proxy serves holders of a key (PROXY_API_KEYS). It is kept in this tab until it is closed, and is sent to this proxy only.",
  keyWrong: "The proxy does not know this key.",
  live: "live", unreachable: "the proxy does not answer", workers: "workers",
  producers: "Producers (prefill)", consumers: "Consumers (decode)", aggregated: "Aggregated",
  noInstance: "No instance is known.", stale: "etcd is away: this is the last known view.",
  unreadable: "Records that cannot be read",
  inUse: "in use", leftAlone: "left alone", inDoubt: "in doubt", unpaired: "not paired",
  model: "model", transports: "transports", version: "vLLM", engine: "engine", rankOf: "DP rank {0} of {1}", inHand: "in hand", pairsWith: "pairs with",
  whyNot: "not paired:", circuit: "circuit", lastCheck: "last check", failures: "failures",
  requestsTokens: "{0} requests, {1} tokens", ago: "{0}, {1} s ago",
  flows: "What flows, last minute", producer: "producer", consumer: "consumer", rate: "MB/s", moving: "MB/s while moving",
  transport: "transport", early: "early", failed: "failed", recomputed: "recomputed", count: "requests",
  noFlow: "Nothing has moved within the last minute. “Try it” has a button for a prompt that is split.",
  earlyShare: "{0} early", nothingMoved: "no KV moved", mapNote: "Blocks and the engine's requests are the instances' own figures, asked for while this page is open; an instance that computes may not answer for seconds.",
  freeBlocks: "free blocks", held: "blocks held", inEngine: "engine", ofBlocks: "{0} of {1}", agoOnly: "{0} s ago",
  heldByProducer: "{0}, of ended prefills, for transfers", heldByConsumer: "{0}, awaiting their KV",
  engine: "{0} running, {1} waiting, cache {2} used",
  search: "Search", searchHint: "id, model, instance, key, failure", path: "path", all: "all", status: "status",
  ok: "well", slow: "slow: over", follow: "follow", none: "none",
  time: "time", id: "request id", way: "path, reason", instances: "instances", ttft: "TTFT", total: "total", phases: "phases",
  tries: "tries", shown: "{0} of {1} shown", more: "Show more", noRequests: "No request yet.", noMatch: "None fits.",
  close: "Close", waterfall: "Waterfall", gone: "It is not among the last requests any more.",
  queue: "queue", prefill: "prefill", transfer: "transfer, exposed", first_step: "first step", answer: "answer", tokens: "tokens",
  first: "first token by",
  chunks: "its chunks: {0}", chunkTitle: "up to token {0}, {1}", chunksNote: "steps of the producer",
  writes: "its writes: {0}", writeTitle: "layers {0}, {1}, {2}", writesNote: "{0} after the prefill's end", eachWrite: "Each write",
  write_layers: "layers", write_count: "writes", write_size: "size", write_begins: "begins", write_ends: "ends", write_takes: "takes",
  secondToken: "to the second token",
  wholeTransfer: "transfer, all of it", sum: "Sum", wholeTime: "whole request", toFirst: "to the first token",
  tokensNote: "{0} events, {1} between two", untilTry: "try {0}",
  transferNote: "{0}, {1}, {2} early", facts: "Facts", headers: "Response headers", outcome: "outcome", failure: "failure",
  client: "key", endpoint: "endpoint", attempts: "tries", worker: "worker (pid)", reason: "reason", greps: "find it in all logs",
  dispatched: "dispatched", prefilled: "prefilled", answered: "first token",
  prompt: "Prompt", kind: "API", stream: "stream", send: "Send", stop: "Stop", short: "short: stays local",
  long: "long: is split", again: "again: prefix cache", output: "Answer", waits: "waiting for the first token …",
  stopped: "stopped", sampling: "Sampling", promptHint: "Write something, or take one of these:",
  noFacts: "The proxy has no record of it.", optional: "default",
  lastMinutes: "Last 15 minutes", itl: "ITL", perSecond: "requests/s", eventsPerSecond: "tokens/s (events of streams)", running: "running", queued: "queued",
  refused: "429s", p50: "median", p95: "95th percentile", shares: "By path and reason", statuses: "By status",
  byCause: "Failures by cause", ofRequests: "requests that did not end well", ofLegs: "legs that failed, also where another instance answered",
  ratio: "Producers to consumers", ratioUse: "Producers: {0}, used {1}, {2} tokens waiting ({3}). Consumers: {4}, used {5}, KV cache {6}, ITL {7} of {8}.",
  ratio_wrong: "The ratio is wrong: {0}.", ratio_few: "Too few of both: {0}.", ratio_many: "Nothing is short, and fewer would do: {0}.",
  ratio_right: "The ratio is right.", ratio_little: "Too little load in the last {1} minutes to say.", ratio_unknown: "Not watched for {1} minutes yet.",
  more_producers: "{0} more producer(s)", fewer_producers: "{0} fewer producer(s)", more_consumers: "{0} more consumer(s)", fewer_consumers: "{0} fewer consumer(s)",
  loadtests: "Load tests", locust: "Locust's page", allRuns: "all runs",
  cause: "cause", nothing: "None.", minutesAgo: "−15 min", nowLabel: "now", itlNote: "mean of each stream",
  why_disaggregated: "split: the prompt was computed by the producer, its KV cache moved to the consumer",
  why_short_prompt: "local: shorter than what is worth a transfer (PROXY_LOCAL_PROMPT_TOKENS)",
  why_producer_busy: "local: short, and the producer's queue would cost more than the consumer's streams pay",
  why_consumer_busy: "split although short: the consumer's streams would pay more",
  why_prefix_on_consumer: "local: the consumer is thought to hold the prompt's beginning already",
  why_rank_not_taken: "local: vLLM chooses this endpoint's engine by itself, so no consumer could be told which one computes the prompt",
  why_no_producer: "local: there is no producer (PROXY_NO_PRODUCER=local)",
  why_aggregated: "an aggregated instance serves it whole",
  why_other: "local: this parameter cannot be served by one transfer",
};

const ZH = {
  title: "PD 控制台", skip: "跳到内容", views: "视图", language: "语言",
  map: "拓扑", requests: "请求", try: "试一试", now: "现况",
  forgetKey: "清除密钥", keyTitle: "需要密钥", keyLabel: "API 密钥", keyUse: "使用",
  keyText: "此代理只为持有密钥者服务（PROXY_API_KEYS）。密钥仅保存在本标签页，关闭即清除，且只发送给此代理。",
  keyWrong: "代理不认识此密钥。",
  live: "实时", unreachable: "代理没有应答", workers: "工作进程",
  producers: "生产者（prefill）", consumers: "消费者（decode）", aggregated: "聚合实例",
  noInstance: "没有已知实例。", stale: "etcd 不可用：显示的是最后已知的状态。",
  unreadable: "无法读取的记录",
  inUse: "使用中", leftAlone: "已熔断", inDoubt: "存疑", unpaired: "未配对",
  model: "模型", transports: "传输方式", version: "vLLM", engine: "引擎", rankOf: "{1} 的 DP rank {0}", inHand: "处理中", pairsWith: "配对",
  whyNot: "未配对：", circuit: "熔断器", lastCheck: "上次检查", failures: "失败",
  requestsTokens: "{0} 个请求，{1} 个 token", ago: "{0}，{1} 秒前",
  flows: "最近一分钟的流量", producer: "生产者", consumer: "消费者", rate: "MB/s", moving: "传输时 MB/s",
  transport: "传输方式", early: "提前", failed: "失败", recomputed: "重算", count: "请求数",
  noFlow: "最近一分钟没有传输。“试一试”里有一个会被拆分的长提示。",
  earlyShare: "{0} 提前", nothingMoved: "没有移动 KV", mapNote: "块数与引擎内的请求数是实例自己的指标，仅在本页打开时查询；正在计算的实例可能数秒不应答。",
  freeBlocks: "空闲块", held: "占用块", inEngine: "引擎", ofBlocks: "{0} / {1}", agoOnly: "{0} 秒前",
  heldByProducer: "{0}，已结束的预填充为传输保留", heldByConsumer: "{0}，等待 KV 到达",
  engine: "运行 {0}，等待 {1}，缓存已用 {2}",
  search: "搜索", searchHint: "编号、模型、实例、密钥名、失败原因", path: "路径", all: "全部", status: "状态",
  ok: "成功", slow: "慢：超过", follow: "跟随", none: "无",
  time: "时间", id: "请求编号", way: "路径与原因", instances: "实例", ttft: "TTFT", total: "总时长", phases: "阶段",
  tries: "尝试", shown: "显示 {0} / {1}", more: "显示更多", noRequests: "还没有请求。", noMatch: "没有符合的请求。",
  close: "关闭", waterfall: "瀑布图", gone: "它已不在最近的请求之中。",
  queue: "排队", prefill: "预填充", transfer: "传输（暴露部分）", first_step: "首步", answer: "回答", tokens: "生成",
  first: "首个 token 来自",
  chunks: "分块：{0}", chunkTitle: "至第 {0} 个 token，{1}", chunksNote: "生产者的各步",
  writes: "写入：{0}", writeTitle: "第 {0} 层，{1}，{2}", writesNote: "预填充结束后 {0}", eachWrite: "每次写入",
  write_layers: "层", write_count: "次数", write_size: "大小", write_begins: "开始", write_ends: "结束", write_takes: "用时",
  secondToken: "到第二个 token",
  wholeTransfer: "传输（全部）", sum: "合计", wholeTime: "整个请求", toFirst: "到首个 token",
  tokensNote: "{0} 个事件，间隔 {1}", untilTry: "第 {0} 次尝试",
  transferNote: "{0}，{1}，{2} 提前", facts: "事实", headers: "响应头", outcome: "结果", failure: "失败原因",
  client: "密钥名", endpoint: "端点", attempts: "尝试次数", worker: "工作进程（pid）", reason: "原因", greps: "可在所有日志中查找",
  dispatched: "派发", prefilled: "预填充完成", answered: "首个 token",
  prompt: "提示", kind: "API", stream: "流式", send: "发送", stop: "停止", short: "短：留在本地",
  long: "长：会被拆分", again: "再来一次：前缀缓存", output: "回答", waits: "等待首个 token …",
  stopped: "已停止", sampling: "采样", promptHint: "写点什么，或选用：",
  noFacts: "代理没有它的记录。", optional: "默认",
  lastMinutes: "最近 15 分钟", itl: "ITL", perSecond: "请求/秒", eventsPerSecond: "token/秒（流事件）", running: "进行中", queued: "排队中",
  refused: "429 次数", p50: "中位数", p95: "95 百分位", shares: "按路径与原因", statuses: "按状态",
  byCause: "按原因统计的失败", ofRequests: "未能正常结束的请求", ofLegs: "失败的分支（包括由其他实例补上的）",
  ratio: "生产者与消费者之比", ratioUse: "{0} 个生产者，利用率 {1}，{2} 个 token 等待中（{3}）；{4} 个消费者，利用率 {5}，KV 缓存 {6}，ITL {7}，上限 {8}。",
  ratio_wrong: "比例不当：{0}。", ratio_few: "两者都不足：{0}。", ratio_many: "两者都够，可以更少：{0}。",
  ratio_right: "比例合适。", ratio_little: "最近 {1} 分钟负载太少，无法判断。", ratio_unknown: "观察尚不足 {1} 分钟。",
  more_producers: "增加 {0} 个生产者", fewer_producers: "减少 {0} 个生产者", more_consumers: "增加 {0} 个消费者", fewer_consumers: "减少 {0} 个消费者",
  loadtests: "负载测试", locust: "Locust 页面", allRuns: "全部运行",
  cause: "原因", nothing: "无。", minutesAgo: "−15 分", nowLabel: "现在", itlNote: "每个流的平均值",
  why_disaggregated: "拆分：提示由生产者计算，KV 缓存移到消费者",
  why_short_prompt: "本地：提示太短，不值得传输（PROXY_LOCAL_PROMPT_TOKENS）",
  why_producer_busy: "本地：提示较短，而生产者队列的代价高于消费者上各流的代价",
  why_consumer_busy: "拆分：提示虽短，但消费者上各流的代价更高",
  why_prefix_on_consumer: "本地：消费者应已持有提示的前缀",
  why_rank_not_taken: "本地：此端点的引擎由 vLLM 自行选择，无法告知消费者由哪一个计算提示",
  why_no_producer: "本地：没有生产者（PROXY_NO_PRODUCER=local）",
  why_aggregated: "由聚合实例完整服务",
  why_other: "本地：一次传输无法服务此参数",
};

export const WORDS = { en: EN, zh: ZH };
const KEPT = "pd-console-language";
let language = localStorage.getItem(KEPT) ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
if (!(language in WORDS)) language = "en";

export const current = () => language;

export function speak(wanted) {
  language = wanted;
  localStorage.setItem(KEPT, wanted);
}

/** The word of this name, with `{0}`, `{1}`, … filled in. */
export function t(name, ...values) {
  return (WORDS[language][name] ?? name).replace(/\{(\d)\}/g, (_, place) => values[place]);
}

export const why = (path, reason) => (reason ? t(`why_${reason}` in EN ? `why_${reason}` : "why_other") : "–");

/** Writes the words into the page's own elements. */
export function label(root) {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = t("title");
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of root.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
}
